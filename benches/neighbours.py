"""Nearest neighbours by cosine: gdig beside faiss's exact search and its HNSW graph, and the recall by clusters.

    python -m benches.neighbours --rows 200000 --faiss-queries 20000      # rows around 256 centres
    python -m benches.neighbours --run runs/a                             # the sketches of a run
    python -m benches.neighbours --rows 1000000 --no-exact                # the search by clusters alone
    python -m benches.neighbours --rows 20000 --hnsw                      # and faiss's HNSW graph

faiss gets float32 rows at unit length, whose preparation is not timed. gdig reads float16 rows and scales them. faiss
may look up only some of the rows; its time for all rows is then multiplied by rows / queries. gdig always looks up all
rows. Both run in turns, `--repeats` times. CPU time is measured too, because other work on the machine changes it less.
The results are checked: all kernels must give the same neighbours, and faiss's cosines may differ by float32's rounding
alone. Each set of rows has its entry in the record; other entries keep their figures.
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
from numpy.typing import NDArray

from benches.shared.machine import ROOT, core_machine
from benches.shared.memory import resident, watch
from gdig import _native
from gdig.config.config import Config
from gdig.run.layout import RunLayout
from gdig.selection import neighbours
from gdig.store.sketches import SketchStore

RECORD = ROOT / "benches" / "record" / "neighbours.json"


def make(n: int, dim: int) -> NDArray[np.float16]:
    """Rows around 256 centres, half as far from the origin as rows are from their centre."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((256, dim), dtype=np.float32)
    labels, x = rng.integers(0, 256, n), np.empty((n, dim), np.float16)
    for start in range(0, n, 65_536):
        block = slice(start, min(n, start + 65_536))
        x[block] = centres[labels[block]] / 2 + rng.standard_normal((block.stop - start, dim), dtype=np.float32)
    return x


def sketches(run: Path, rows: int | None) -> NDArray[Any]:
    """The first `rows` valid sketches of a run, or all; without those of zeros, which have no direction."""
    path = RunLayout(run).sweep
    store = SketchStore.open(path)
    if store.dtype not in ("float16", "float32"):
        raise SystemExit(f"{path}: expected sketches of float16 or float32, got {store.dtype}")
    blocks, held = [], 0
    for shard in store.shards:
        x = store.tensor(shard, "sketch")
        blocks.append(x[store.tensor(shard, "valid").astype(bool) & x.any(1)])
        held += len(blocks[-1])
        if rows is not None and held >= rows:
            break
    return np.concatenate(blocks)[:rows]


class Times:
    """Seconds by the clock and of all threads, of each round."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def take(self, work: Callable[[], Any]) -> Any:
        begin, begin_cpu = time.perf_counter(), time.process_time()
        result = work()
        self.wall.append(time.perf_counter() - begin)
        self.cpu.append(time.process_time() - begin_cpu)
        return result

    def facts(self) -> dict[str, Any]:
        medians = {"seconds": statistics.median(self.wall), "cpu_seconds": statistics.median(self.cpu)}
        return medians | {"all_seconds": self.wall, "all_cpu_seconds": self.cpu}


class Faiss:
    """Exact search of the first `queries` rows among all rows."""

    def __init__(self, x: NDArray[Any], queries: int, k: int, threads: int) -> None:
        import faiss

        faiss.omp_set_num_threads(threads)
        self.units, self.k = x.astype(np.float32), k
        for start in range(0, len(x), 65_536):
            block = self.units[start : start + 65_536]
            block /= np.linalg.norm(block, axis=1, keepdims=True)
        self.index = faiss.IndexFlatIP(x.shape[1])
        self.index.add(self.units)
        self.units = self.units[:queries].copy()

    def __call__(self) -> NDArray[np.float32]:
        # One more neighbour, because each row is its own nearest neighbour.
        return self.index.search(self.units, self.k + 1)[0]


def rounding(dim: int) -> float:
    """How far faiss's cosines may be from gdig's.

    A chain of dim float32 additions, of terms whose absolute values add up to no more than 1; and 10 roundings of each
    row's length, which NumPy sums pairwise in 8 lanes of blocks of 128.
    """
    return (dim + 20) * 2**-24


def check(cosines: NDArray[np.float32], truth: NDArray[np.float32], dim: int) -> float:
    """The largest difference of faiss's cosines, row by row in falling order.

    A row and itself may not come first where another is the same: its cosine, 1, is then among the others, and the
    largest of all is left out either way.
    """
    worst = float(np.abs(cosines[:, 1:] - truth[: len(cosines)]).max())
    if worst > rounding(dim):
        raise SystemExit(f"faiss's cosines differ by {worst:.1e}")
    return worst


def exact(x: NDArray[Any], arguments: argparse.Namespace) -> tuple[dict[str, Any], NDArray[np.float32]]:
    """Times of gdig's kernels and of faiss, and the cosines of the nearest rows."""
    (n, dim), k, threads = x.shape, arguments.k, arguments.threads
    queries = min(n, arguments.faiss_queries or n)
    peer = None if arguments.no_faiss else Faiss(x, queries, k, threads)
    times: dict[str, Times] = {}
    truth, worst = None, 0.0
    for number in range(arguments.repeats):
        for kernel in arguments.kernels if number == 0 else arguments.kernels[-1:]:
            search = lambda kernel=kernel: _native.neighbours(x, k, kernel=kernel, n_threads=threads)  # noqa: E731
            result = times.setdefault(kernel, Times()).take(search)
            if truth is None:
                truth = result
            elif any((a != b).any() for a, b in zip(result, truth, strict=True)):
                raise SystemExit(f"{kernel}: not the same neighbours as those of {arguments.kernels[0]}")
            print_times(
                kernel, times[kernel], f"{2 * n * n * dim / times[kernel].cpu[-1] / 1e9:.0f} GFLOP/s of all pairs"
            )
        if peer is not None:
            cosines = times.setdefault("faiss IndexFlatIP", Times()).take(peer)
            worst = check(cosines, truth[1], dim)
            print_times(f"faiss, {queries} rows", times["faiss IndexFlatIP"], f"x {n / queries:g} for all")
    facts = {name: spent.facts() for name, spent in times.items()}
    if peer is not None:
        whole = {
            f"{name}_for_all": facts["faiss IndexFlatIP"][name] * n / queries for name in ("seconds", "cpu_seconds")
        }
        facts["faiss IndexFlatIP"] |= {"queries": queries, **whole, "largest_difference": worst}
    return facts, truth[1]


def hnsw(x: NDArray[Any], truth: NDArray[np.float32], arguments: argparse.Namespace) -> dict[str, Any]:
    """Times and recall of faiss's HNSW graph: 32 links a row, and as many candidates in the search as asked for."""
    import faiss

    (n, dim), k, built, searched = x.shape, arguments.k, Times(), Times()
    faiss.omp_set_num_threads(arguments.threads)
    units = x.astype(np.float32)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    index = faiss.IndexHNSWFlat(dim, 32, faiss.METRIC_INNER_PRODUCT)
    built.take(lambda: index.add(units))
    index.hnsw.efSearch = arguments.hnsw_candidates
    cosines, rows = searched.take(lambda: index.search(units, k + 1))
    others = np.where(rows == np.arange(n)[:, None], -np.inf, cosines)
    recall = float(np.minimum((others >= truth[:, -1:] - rounding(dim)).sum(1), k).mean() / k)
    print_times("HNSW, the graph", built, "")
    print_times("HNSW, the search", searched, f"{recall:.2%} found")
    return {"graph": built.facts(), "search": searched.facts(), "recall_of_all_rows": recall}


def by_clusters(x: NDArray[Any], truth: NDArray[np.float32] | None, arguments: argparse.Namespace) -> dict[str, Any]:
    """Times of the search by clusters, its memory, its recall; after the exact search, also without the k-means."""
    n, k = len(x), arguments.k
    options = Config.build({"neighbour_search": "clusters", "threads": arguments.threads})
    whole, cache, before = Times(), neighbours.NeighbourCache(), resident()
    with watch() as peak:
        graph = whole.take(lambda: neighbours.nearest(x, k, n, 0, options, cache))
    print_times("clusters", whole, graph.notes[0])
    memory = {"peak_bytes": peak.bytes, "peak_bytes_beside_the_rows": peak.bytes - before}
    facts = {**whole.facts(), "notes": graph.notes, **memory}
    if truth is not None:
        again = Times()
        again.take(lambda: neighbours.nearest(x, k, n, 0, options, cache))
        print_times("its search", again, "and the recall, without the k-means")
        facts["without_kmeans"] = again.facts()
        facts["recall_of_all_rows"] = float((graph.cosines >= truth[:, -1:]).mean())
        print(f"{'':>20}  {facts['recall_of_all_rows']:.2%} by all rows")
    return facts


def print_times(name: str, times: Times, more: str) -> None:
    print(f"{name:>20}  {times.wall[-1]:8.2f} s  CPU {times.cpu[-1]:8.2f} s  {more}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, help="number of rows (default: 200,000; with --run: all)")
    parser.add_argument("--run", type=Path, help="take the sketches of this run directory")
    parser.add_argument("--name", help="name of the rows in the record (default: the run directory's)")
    parser.add_argument("--dim", type=int, default=512, help="columns of the rows, without --run")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=3, help="rounds of the fastest kernel and of faiss")
    fine = [k for k in _native.kernels() if k != "scalar" and "int8" not in k]
    coarse = [k for k in _native.kernels() if "int8" in k and k != "amx-int8"]
    fastest = fine[-2:] if "amx-bf16" in fine else [fine[-1], coarse[-1]]
    parser.add_argument("--kernels", nargs="*", default=fastest, help="kernels to compare, the fastest last")
    parser.add_argument("--faiss-queries", type=int, help="number of rows that faiss looks up (default: all)")
    parser.add_argument("--no-faiss", action="store_true")
    parser.add_argument("--no-exact", action="store_true")
    parser.add_argument("--hnsw", action="store_true", help="measure faiss's HNSW graph too, after the exact search")
    parser.add_argument("--hnsw-candidates", type=int, default=64, help="candidates of its search (efSearch)")
    parser.add_argument("--output", type=Path, default=RECORD)
    arguments = parser.parse_args()
    x = sketches(arguments.run, arguments.rows) if arguments.run else make(arguments.rows or 200_000, arguments.dim)
    what = arguments.name or (arguments.run.name if arguments.run else "around 256 centres")
    sizes = {"rows": len(x), "dim": x.shape[1], "dtype": x.dtype.name, "k": arguments.k, "threads": arguments.threads}
    entry: dict[str, Any] = {"machine": core_machine(), **sizes}
    name = f"{what}, {len(x):,} x {x.shape[1]}"
    print(f"{name}, {x.dtype}, {arguments.threads} threads; load {os.getloadavg()[0]:.1f}", flush=True)
    truth = None
    if not arguments.no_exact:
        entry["exact"], truth = exact(x, arguments)
        if arguments.hnsw:
            entry["hnsw"] = hnsw(x, truth, arguments)
    entry["clusters"] = by_clusters(x, truth, arguments)
    entry["load_average_at_the_end"] = os.getloadavg()
    record = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    arguments.output.write_text(json.dumps(dict(sorted({**record, name: entry}.items())), indent=2) + "\n")


if __name__ == "__main__":
    main()
