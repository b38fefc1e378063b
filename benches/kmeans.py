"""gdig's k-means beside other libraries: the same rows, the same start, in turns, in one process.

    python -m benches.kmeans                       # writes benches/record/kmeans.json
    python -m benches.kmeans --rows 200000 --clusters 512 --peers faiss
    python -m benches.kmeans --rows 50000 --clusters 16384 --peers super_kmeans --threads 1 --cpu
    python -m benches.kmeans --cold 30 --directory /data    # a pass over 30 GB that are not in the page cache

The bench needs `pip install 'gdig[bench]'`. A time is one full Lloyd iteration (assignment and update) over all rows,
the mean of those after the first. `--cpu` takes CPU seconds, and `--noise` rows without clusters.
gdig reads float16 or int8 rows from a store. The other libraries get the same numbers as float32 (bfloat16 for torch),
in memory, converted before the clock runs. Inertia is computed alike for all, in float64, from the stored rows and the
centroids.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benches.libraries import kmeans_libraries
from benches.shared.machine import ROOT, core_machine
from gdig import KMeans, SketchStore

RECORD = ROOT / "benches" / "record" / "kmeans.json"
BLOCK = 65_536
PEERS = ["faiss", "super_kmeans", "scikit_learn", "fastkmeans", "torch_bf16"]


def make(directory: Path, rows: int, dim: int, dtype: str, random_seed: int = 0, noise: bool = False) -> SketchStore:
    """Rows around 2,000 centres, spread so far that each row has several near centres, like sketches of gradients.

    With `noise`, all rows lie around the origin.
    """
    rng = np.random.default_rng(random_seed)
    centers = rng.standard_normal((2_000, dim), dtype=np.float32) / (np.inf if noise else 2)
    with SketchStore.create(directory, dim, dtype=dtype, rows_per_shard=131_072) as store:
        for start in range(0, rows, BLOCK):
            n = min(BLOCK, rows - start)
            store.append(centers[rng.integers(0, len(centers), n)] + rng.standard_normal((n, dim), dtype=np.float32))
    return store


def as_float32(store: SketchStore) -> NDArray[np.float32]:
    return np.concatenate([store._native.rows_float32(i) for i in store._native.shard_indices()])


def inertia(x: NDArray[np.float32], centers: NDArray[np.float32]) -> float:
    """Products in float32 choose the centroid, distances in float64 count."""
    total = 0.0
    for i in range(0, len(x), 8_192):
        rows = x[i : i + 8_192]
        nearest = ((centers**2).sum(1) / 2 - rows @ centers.T).argmin(1)
        total += float(((rows.astype(np.float64) - centers[nearest]) ** 2).sum())
    return total


def bench(arguments: argparse.Namespace, rows: int, k: int, dtype: str, directory: Path) -> dict[str, Any]:
    """One table: every method, `repeats` times in turns."""
    store = make(directory / f"{dtype}-{k}", rows, arguments.dim, dtype, noise=arguments.noise)
    x = as_float32(store)
    start = x[np.random.default_rng(7).choice(rows, k, replace=False)].copy()
    methods: dict[str, Any] = {"gdig": partial(kmeans_libraries.gdig, store)}
    for kernel in arguments.kernels:
        methods[f"gdig {kernel}"] = partial(kmeans_libraries.gdig, store, kernel=kernel)
    for peer in arguments.peers:
        data = x
        if peer == "torch_bf16":
            import torch

            data = torch.from_numpy(x).to(torch.bfloat16)
        methods[peer] = partial(getattr(kmeans_libraries, peer), data)
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    inertias: dict[str, float] = {}
    for _ in range(arguments.repeats):
        for name, method in methods.items():
            time_, centers = method(start=start, iterations=arguments.iterations, threads=arguments.threads)
            seconds[name].append(time_)
            if name not in inertias:
                inertias[name] = inertia(x, centers)
    lines = {}
    for name, times in seconds.items():
        median = statistics.median(times)
        lines[name] = {
            "seconds": {"median": median, "min": min(times), "max": max(times), "n": len(times)},
            "mega_points_per_second": rows / median / 1e6,
            "gflops": 2 * rows * k * arguments.dim / median / 1e9,
            "inertia": inertias[name],
        }
    reference = lines.get("faiss", lines["gdig"])["seconds"]["median"]
    print(f"\n{dtype}, {rows} x {arguments.dim}, K = {k}, {arguments.threads} threads")
    for name, line in lines.items():
        spread = line["seconds"]
        print(
            f"  {name:18} {spread['median']:8.3f} s [{spread['min']:.3f}..{spread['max']:.3f}]"
            f"  {line['mega_points_per_second']:7.3f} Mpoints/s  x{reference / spread['median']:6.2f}"
            f"  inertia {line['inertia']:.6e}"
        )
    return {"dtype": dtype, "rows": rows, "dim": arguments.dim, "k": k, "methods": lines}


def evict(path: Path) -> None:
    """Drop a file from the page cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def direct_rate(paths: list[Path], threads: int) -> float:
    """Bytes a second of O_DIRECT reads of 8 MiB, with as many threads as k-means has."""
    import mmap
    from concurrent.futures import ThreadPoolExecutor

    size = 8 << 20

    def read(path: Path) -> int:
        handle, buffer, done = os.open(path, os.O_RDONLY | os.O_DIRECT), mmap.mmap(-1, size), 0
        try:
            while n := os.preadv(handle, [buffer], done):
                done += n
        finally:
            os.close(handle)
        return done

    begin = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        total = sum(pool.map(read, paths))
    return total / (time.perf_counter() - begin)


def cold(arguments: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """A pass over a store that is not in memory, mapped and read directly, beside the disk's own rate, in turns.

    It uses the first number of `--clusters`. CPU seconds are those of all threads.
    """
    rows, k = int(arguments.cold * 1e9 / (2 * arguments.dim)), arguments.clusters[0]
    store = make(directory / "cold", rows, arguments.dim, "float16")
    paths = sorted((directory / "cold").glob("*.safetensors"))
    start = store._native.rows_float32(0)[:k]
    model = KMeans(k, init=start, max_iter=1, train_rows=max(k, 4_096), n_threads=arguments.threads).fit(store)
    in_memory = np.array(store.rows(0))
    total = sum(path.stat().st_size for path in paths)
    passes: dict[str, tuple[int, Any]] = {
        "disk": (total, lambda: direct_rate(paths, arguments.threads)),
        "mapped": (total, lambda: model.predict(store)),
        "direct": (total, lambda: model.predict(store)),
        "in_memory": (in_memory.nbytes, lambda: model.predict(in_memory)),
    }
    rates: dict[str, list[float]] = {name: [] for name in passes}
    cpu: dict[str, list[float]] = {name: [] for name in passes}
    for _ in range(arguments.repeats):
        for name, (n_bytes, work) in passes.items():
            for path in paths:
                evict(path)
            os.environ["GDIG_READING"] = name if name in ("mapped", "direct") else ""
            begin, cpu_begin = time.perf_counter(), time.process_time()
            work()
            rates[name].append(n_bytes / (time.perf_counter() - begin))
            cpu[name].append((time.process_time() - cpu_begin) / n_bytes * 1e9)
    print(f"\ncold, {total / 1e9:.1f} GB, K = {k}, {arguments.threads} threads")
    for name in passes:
        rate, seconds = statistics.median(rates[name]) / 1e9, statistics.median(cpu[name])
        print(f"  {name:10} {rate:6.2f} GB/s   CPU {seconds:5.2f} s a GB")
    return {"bytes": total, "k": k, "bytes_per_second": rates, "cpu_seconds_per_gigabyte": cpu}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rows",
        type=int,
        nargs="+",
        default=[1_000_000],
        help="a number for each of --clusters, or one number for all",
    )
    parser.add_argument("--clusters", type=int, nargs="+", default=[512, 4_096])
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--dtypes", nargs="+", default=["float16", "int8"])
    parser.add_argument(
        "--peers", nargs="*", default=["faiss", "super_kmeans", "scikit_learn", "fastkmeans", "torch_bf16"]
    )
    parser.add_argument("--kernels", nargs="*", default=[], help="more kernels of gdig to measure")
    parser.add_argument(
        "--iterations", type=int, default=3, help="iterations of a run; those after the first are timed"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--cold",
        type=float,
        help="measure a pass over so many gigabytes of rows, and nothing else; take more than the free memory",
    )
    parser.add_argument("--cpu", action="store_true", help="take CPU seconds of the process, not those of the clock")
    parser.add_argument("--noise", action="store_true", help="rows without clusters")
    parser.add_argument("--directory", type=Path, help="folder for the rows while the bench runs")
    parser.add_argument("--output", type=Path, default=RECORD)
    arguments = parser.parse_args()
    sizes = arguments.rows * len(arguments.clusters) if len(arguments.rows) == 1 else arguments.rows
    if arguments.cpu:
        kmeans_libraries.clock = time.process_time
    conditions = {"threads": arguments.threads, "cpu_seconds": arguments.cpu, "noise": arguments.noise}
    record: dict[str, Any] = {"machine": core_machine()} | conditions | {"tables": []}
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        if arguments.cold:
            record["cold"] = cold(arguments, Path(directory))
        else:
            for k, rows in zip(arguments.clusters, sizes, strict=True):
                for dtype in arguments.dtypes:
                    record["tables"].append(bench(arguments, rows, k, dtype, Path(directory)))
                    arguments.output.parent.mkdir(parents=True, exist_ok=True)
                    arguments.output.write_text(json.dumps(record, indent=2) + "\n")
    arguments.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
