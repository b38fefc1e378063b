"""Nearest neighbours by cosine: ours against faiss's exact search, from the same float16 rows; by clusters, the recall.

    python benches/neighbours.py --rows 60000 --threads 1

faiss searches float32 rows at unit length, which it gets for nothing here; ours reads float16 rows and scales them.
CPU time is measured beside the clock's, since other work on the machine changes it less. What is compared is checked
first: all kernels must find the same, and faiss's cosines must differ by float32's rounding alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from kmeans import machine
from numpy.typing import NDArray

from gdig import _native
from gdig.config import Config
from gdig.strategies import neighbours

RECORD = Path(__file__).parent / "record" / "neighbours.json"


def make(n: int, dim: int) -> NDArray[np.float16]:
    """Rows around 256 centres, half as far from the origin as rows are from their centre."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((256, dim), dtype=np.float32)
    return (centres[rng.integers(0, 256, n)] / 2 + rng.standard_normal((n, dim), dtype=np.float32)).astype(np.float16)


def timed(work: Callable[[], Any], repeats: int) -> tuple[Any, dict[str, Any]]:
    """What `work` returns, and its seconds by the clock and of all threads: of each round, and the medians."""
    wall, cpu, result = [], [], None
    for _ in range(repeats):
        begin, begin_cpu = time.perf_counter(), time.process_time()
        result = work()
        wall.append(time.perf_counter() - begin)
        cpu.append(time.process_time() - begin_cpu)
    medians = {"seconds": statistics.median(wall), "cpu_seconds": statistics.median(cpu)}
    return result, medians | {"all_seconds": wall, "all_cpu_seconds": cpu}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument(
        "--kernels", nargs="*", default=[k for k in _native.kernels() if k not in ("scalar", "amx-int8")]
    )
    parser.add_argument("--no-faiss", action="store_true")
    parser.add_argument("--output", type=Path, default=RECORD)
    arguments = parser.parse_args()
    n, dim, k, threads = arguments.rows, arguments.dim, arguments.k, arguments.threads
    x = make(n, dim)
    record: dict[str, Any] = {"machine": machine(), "threads": threads, "rows": n, "dim": dim, "k": k, "results": {}}

    def keep(name: str, figures: dict[str, Any]) -> None:
        seconds, cpu = figures["seconds"], figures["cpu_seconds"]
        rate = 2 * n * n * dim / cpu / 1e9
        print(f"{name:>20}  {seconds:8.2f} s  CPU {cpu:8.2f} s  {rate:8.0f} GFLOP/s of all pairs", flush=True)
        record["results"][name] = figures
        arguments.output.write_text(json.dumps(record, indent=2) + "\n")

    truth = None
    for kernel in reversed(arguments.kernels):
        found, figures = timed(
            lambda kernel=kernel: _native.neighbours(x, k, kernel=kernel, n_threads=threads), arguments.repeats
        )
        if truth is None:
            truth = found
        elif any((a != b).any() for a, b in zip(found, truth, strict=True)):
            raise SystemExit(f"{kernel}: not the same neighbours as those of {arguments.kernels[-1]}")
        keep(kernel, figures)
    options = Config.build({"neighbour_search": "clusters", "threads": threads})
    found, figures = timed(lambda: neighbours.nearest(x, k, n, 0, options), arguments.repeats)
    keep("clusters", figures | {"notes": found.notes})
    print(f"{'':>20}  {found.notes[0]}")
    if arguments.no_faiss or truth is None:
        return
    import faiss

    faiss.omp_set_num_threads(threads)
    units = x.astype(np.float32)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    index = faiss.IndexFlatIP(dim)
    index.add(units)
    (cosines, _), figures = timed(lambda: index.search(units, k + 1), arguments.repeats)
    # A chain of dim float32 additions, of terms whose absolute values add up to no more than 1; and 10 roundings of
    # each row's length, which NumPy sums pairwise in 8 lanes of blocks of 128.
    worst = np.abs(cosines[:, 1:] - truth[1]).max()
    if worst > (dim + 20) * 2**-24:
        raise SystemExit(f"faiss's cosines differ by {worst:.1e}")
    keep("faiss IndexFlatIP", figures | {"largest_difference": float(worst)})


if __name__ == "__main__":
    main()
