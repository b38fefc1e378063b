"""BIDS beside its plain form in NumPy: the same matrix, the same picks.

    python -m benches.bids                          # writes benches/record/bids.json
    python -m benches.bids --rows 100000 --budget 1000

There are two matrices: independent columns, and columns that mostly agree. Columns that agree make gdig follow a sorted
column far down. The plain form looks at every entry for every pick. It makes `--plain` picks, which must equal gdig's;
its time for the whole budget is extrapolated by budget / picks.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benches.shared.machine import ROOT, core_machine
from gdig.selection.methods.bids import bids_rows
from gdig.store.sketches import SketchStore

RECORD = ROOT / "benches" / "record" / "bids.json"


def make(kind: str, rows: int, seeds: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, seeds), dtype=np.float32)
    if kind == "alike":
        x = 0.3 * x + rng.standard_normal((rows, 1), dtype=np.float32)
        x *= np.exp(rng.standard_normal((rows, 1), dtype=np.float32))
    return x


def plain(x: NDArray[np.float32], budget: int) -> tuple[NDArray[np.int64], float]:
    """The rows, and the seconds of the picks, without the seconds of the z-scores."""
    z = x.astype(np.float64)
    z -= z.mean(0)
    z /= z.std(0, ddof=1)
    sums, rows, best = np.zeros(z.shape[1]), [], np.empty(len(z))
    start = time.perf_counter()
    for k in range(budget):
        mean = sums / max(1, k)
        for first_row in range(0, len(z), 4_096):  # so that what is subtracted stays in the cache
            (z[first_row : first_row + 4_096] - mean).max(1, out=best[first_row : first_row + 4_096])
        best[rows] = -np.inf
        row = int(best.argmax())
        rows.append(row)
        sums += z[row]
    return np.array(rows), time.perf_counter() - start


def write(x: NDArray[np.float32], directory: Path, rows_per_shard: int = 16_384) -> SketchStore:
    store = SketchStore.create(directory, 1, rows_per_shard=rows_per_shard)
    for shard, start in enumerate(range(0, len(x), rows_per_shard)):
        block = x[start : start + rows_per_shard]
        n = len(block)
        columns = {"loss": np.zeros(n, np.float32), "tokens": np.ones(n, np.int32), "valid": np.ones(n, bool)}
        store.write_shard(shard, {"sketch": np.zeros((n, 1), np.float32), "influence": block, **columns})
    return store


def bench(kind: str, arguments: argparse.Namespace, directory: Path) -> dict[str, Any]:
    x = make(kind, arguments.rows, arguments.seeds)
    store = write(x, directory)
    picks, seconds = plain(x, arguments.plain)
    del x
    times = []
    for _ in range(arguments.repeats):
        start = time.perf_counter()
        picked = bids_rows(store, arguments.budget)
        times.append(time.perf_counter() - start)
    if not np.array_equal(picked.rows[: arguments.plain], picks):
        raise SystemExit(f"{kind}: the picks differ from those of the plain form")
    whole = seconds * arguments.budget / arguments.plain
    spread = {"median": statistics.median(times), "min": min(times), "max": max(times), "n": len(times)}
    print(f"{kind}: {spread['median']:.2f} s [{min(times):.2f}..{max(times):.2f}]; plain {seconds:.1f} s for", end=" ")
    print(f"{arguments.plain} picks, so {whole:,.0f} s for all")
    return {
        "seconds": spread,
        "plain": {"picks": arguments.plain, "seconds": seconds, "seconds_for_all_extrapolated": whole},
        "seeds_served": len(np.unique(picked.seeds)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=288_000)
    parser.add_argument("--seeds", type=int, default=350)
    parser.add_argument("--budget", type=int, default=43_000)
    parser.add_argument("--plain", type=int, default=40, help="picks of the plain form")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--record", type=Path, default=RECORD)
    arguments = parser.parse_args()
    results = {}
    for kind in ("apart", "alike"):
        with tempfile.TemporaryDirectory() as directory:
            results[kind] = bench(kind, arguments, Path(directory) / "sweep")
    sizes = {name: getattr(arguments, name) for name in ("rows", "seeds", "budget")}
    record = {"machine": core_machine(), **sizes, "columns": results}
    record["peak_bytes_with_the_plain_form"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    arguments.record.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
