"""What the options cost a selection from generated sketches: repeats, near-copies, sources, evaluation sets."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benches.redundancy_parts.peak_memory import anonymous_peak
from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.selection.centred import unit_float16
from gdig.selection.choose import choose
from gdig.selection.eligible import narrow
from gdig.selection.judge import Judge
from gdig.selection.method import FinishedSweep
from gdig.selection.repeats import repeats
from gdig.selection.similar import SimilarityFeatures, hold
from gdig.selection.sources import Sources
from gdig.selection.survey import survey
from gdig.store.sketches import SketchStore

REPEATED, NEAR = 0.05, 0.10
"""Shares of the rows that repeat an earlier row, and that lie near to one (cosine about 0.97)."""
SOURCES = 8
ENTRIES = 1000
"""Rows of the evaluation set."""
_STEP = 16_384


def measure_sketches(
    measured: Callable[..., dict[str, Any]], folder: Path, rows: int, dim: int, budget: float, threads: int
) -> dict[str, Any]:
    """Make a store of `rows` rows, and measure each step over it in a process of its own."""
    made = measured(make_store, folder, rows, dim)
    steps: dict[str, Any] = {"rows": rows, "dim": dim, "store_s": made["seconds"]}
    steps["repeats"] = measured(find_repeats, folder)
    plain = measured(select, folder, {}, budget, threads)
    steps["choice alone"] = plain
    steps["repeats out"] = measured(select, folder, {"repeats": "drop"}, budget, threads)
    steps["near-copies out"] = measured(select, folder, {"max_similarity": 0.9}, budget, threads)
    steps[f"{SOURCES} sources"] = measured(select, folder, {"source_quotas": "equal"}, budget, threads)
    steps["evaluation set"] = measured(search_entries, folder, threads)
    return steps


def make_store(folder: Path, rows: int, dim: int) -> dict[str, Any]:
    """Write sketches of random directions, of which some repeat or lie near to a row of the same shard before them."""
    store = SketchStore.create(folder / "sweep", dim, overwrite=True)
    for shard, start in enumerate(range(0, rows, _STEP)):
        rng, n = np.random.default_rng(shard), min(_STEP, rows - start)
        x, earlier, near, same = _directions(rng, n, dim)
        x[near] = x[earlier[near]] + 0.25 * x[near]
        x[same] = x[earlier[same]]
        hashes = rng.integers(0, 2**63, n, dtype=np.uint64)
        hashes[same] = hashes[earlier[same]]
        loss = rng.random(n, dtype=np.float32)
        loss[near] = loss[earlier[near]] + 1e-4 * loss[near]  # the model finds a copy as hard as its original
        tensors = {
            "sketch": x,
            "influence": rng.standard_normal((n, 1), dtype=np.float32),
            "loss": loss,
            "tokens": np.full(n, 100, np.int32),
            "valid": np.ones(n, np.uint8),
            "hash": hashes,
        }
        store.write_shard(shard, tensors)
    return {}


def planted_copies(shard: int, n: int, dim: int) -> np.ndarray:
    """Which rows of a shard of `make_store` repeat an earlier row, or lie near to one: bool [n].

    A row that was to lie near to one that became a copy itself is near to none: it was made from what that one was.
    """
    _, earlier, near, same = _directions(np.random.default_rng(shard), n, dim)
    return (near & ~(near | same)[earlier]) | (same & ~same[earlier])


def _directions(rng: np.random.Generator, n: int, dim: int) -> tuple[np.ndarray, ...]:
    """Random rows, an earlier row of each, and which lie near to it and which are the same."""
    x = rng.standard_normal((n, dim), dtype=np.float32)
    earlier = (rng.random(n) * np.arange(n)).astype(np.int64)
    kind = rng.random(n)
    return x, earlier, kind < NEAR, (kind >= NEAR) & (kind < NEAR + REPEATED)


def find_repeats(folder: Path) -> dict[str, Any]:
    """Find the rows that repeat another."""
    store = SketchStore.open(folder / "sweep")
    with anonymous_peak() as peak:
        repeated = repeats(store)
    return {"repeats": int(repeated.sum()), "own_bytes": peak[0]}


def select(folder: Path, options: dict[str, Any], budget: float, threads: int) -> dict[str, Any]:
    """Select by the lowest loss under some options."""
    config = Config.build(
        {"method": "loss", "repeats": "keep", "similarity_of": "sketch", **options, "threads": threads or None}
    )
    store = SketchStore.open(folder / "sweep")
    n = len(store)
    ends = tuple(n * (source + 1) // SOURCES for source in range(SOURCES))
    sources = Sources(tuple(f"source {number}" for number in range(SOURCES)), ends)
    sweep = FinishedSweep(store, survey(store, Judge()), sources=sources)
    features = SimilarityFeatures(store, "sketch") if config.max_similarity < 1 else None
    begun = time.monotonic()
    with anonymous_peak() as peak:
        eligible = narrow(sweep, config, np.zeros(0, np.int64), features)
        scored = choose(eligible, Limit("rows", int(budget * n)), config)
    return {
        "chosen": len(scored.rows),
        "repeats": eligible.repeats,
        "passed_over": scored.similar,
        "choice_s": time.monotonic() - begun,
        "own_bytes": peak[0],
    }


def search_entries(folder: Path, threads: int) -> dict[str, Any]:
    """Compare every row with an evaluation set by cosine, shard by shard, as `gdig.selection.exclude` does."""
    store = SketchStore.open(folder / "sweep")
    features = SimilarityFeatures(store, "sketch")
    rng = np.random.default_rng(1)
    planted = rng.choice(len(store), ENTRIES // 2, replace=False)
    entries = np.concatenate(
        [features.of_rows(np.sort(planted)), unit_float16(rng.standard_normal((ENTRIES // 2, store.dim)))]
    )
    held = hold(entries)
    near = 0
    with anonymous_peak() as peak:
        for shard in store.shards:
            nearest, cosines = held.nearest(features.of_shard(shard), -1.0, n_threads=threads)
            near += int(((nearest >= 0) & (cosines > 0.9)).sum())
    return {"entries": ENTRIES, "near": near, "own_bytes": peak[0]}
