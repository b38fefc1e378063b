"""Near-copies among generated sketches: gdig's walk, and SemHash's index of neighbours over the same vectors.

SemHash encodes texts by a model of the hub. It takes vectors of one's own as well (`SemHash.from_embeddings`), so its
search is measured, and no encoder.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benches.redundancy_parts.peak_memory import anonymous_peak
from benches.redundancy_parts.sketches import make_store, planted_copies
from gdig.selection.similar import SimilarityFeatures, SimilarityWalk
from gdig.store.sketches import SketchStore

COSINE = 0.9


def measure_near_copies(
    measured: Callable[..., dict[str, Any]], folder: Path, rows: int, dim: int, threads: int
) -> dict[str, Any]:
    """Go through all rows in their order, and drop each that is near to a row taken before."""
    measured(make_store, folder, rows, dim)
    results: dict[str, Any] = {"rows": rows, "dim": dim, "threads": threads, "cosine": COSINE}
    results["gdig"] = measured(by_walk, folder, threads)
    if importlib.util.find_spec("semhash") is not None:
        results["SemHash"] = {"version": version("semhash"), **measured(by_semhash, folder)}
    return results


def by_walk(folder: Path, threads: int) -> dict[str, Any]:
    """As `max_similarity` does it, for a budget of all rows: every pair of a row and one taken before."""
    store = SketchStore.open(folder / "sweep")
    begun, cpu = time.monotonic(), time.process_time()
    with anonymous_peak() as peak:
        walk = SimilarityWalk(SimilarityFeatures(store, "sketch"), COSINE, threads)
        taken = walk.take(np.arange(len(store), dtype=np.int64))
    return _judged(store, taken, time.monotonic() - begun, time.process_time() - cpu, peak[0])


def by_semhash(folder: Path) -> dict[str, Any]:
    """As SemHash does it: a graph of neighbours (usearch, its defaults), then groups in the order of the rows."""
    from semhash import SemHash

    store = SketchStore.open(folder / "sweep")
    features = SimilarityFeatures(store, "sketch")
    x = np.concatenate([features.of_shard(shard) for shard in store.shards]).astype(np.float32)
    names = [str(row) for row in range(len(x))]
    begun, cpu = time.monotonic(), time.process_time()
    with anonymous_peak() as peak:
        result = SemHash.from_embeddings(x, names, model=None).self_deduplicate(COSINE)
    spent = time.monotonic() - begun, time.process_time() - cpu
    taken = np.zeros(len(x), bool)
    taken[[int(name) for name in result.selected]] = True
    return _judged(store, taken, *spent, peak[0])


def _judged(store: SketchStore, taken: np.ndarray, seconds: float, cpu_s: float, own_bytes: int) -> dict[str, Any]:
    # Rows made from one row that was replaced itself are near to each other as well: they are dropped, and unplanted.
    is_copy = np.concatenate([planted_copies(shard, _length(store, shard), store.dim) for shard in store.shards])
    return {
        "dropped": int((~taken).sum()),
        "recall": float((~taken[is_copy]).mean()),
        "unplanted": int((~taken[~is_copy]).sum()),
        "search_s": seconds,
        "search_cpu_s": cpu_s,
        "own_bytes": own_bytes,
    }


def _length(store: SketchStore, shard: int) -> int:
    start, stop = store.shard_range(shard)
    return stop - start
