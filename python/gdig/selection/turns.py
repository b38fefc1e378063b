"""Rows by their relevance to each seed: seeds take turns, or the greatest or the mean relevance decides."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gdig import _native
from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.selection.best import highest as highest_scores
from gdig.selection.method import FinishedSweep, OrderedRows, Picked, rows_within
from gdig.selection.relevance import Relevance


class TurnRows(NamedTuple):
    """Rows in the order of the turns.

    rows: int64 [n]. seeds: uint32 [n], the seed that took each row. ranks: uint64 [n], the row's rank in the column of
    that seed, from 1. relevance: float32 [n], the row's relevance to that seed. flat: seeds to whom all rows are
    equally relevant; these have no turn.
    """

    rows: NDArray[np.int64]
    seeds: NDArray[np.uint32]
    ranks: NDArray[np.uint64]
    relevance: NDArray[np.float32]
    flat: int


def take_turns(
    sweep: FinishedSweep, relevance: Relevance | None, budget: int, n_threads: int = 0, n_seeds: int | None = None
) -> TurnRows:
    """Let the seeds take turns: each takes the free valid row with the highest relevance to it, ties by row.

    Without tasks the turns are those of seeds 0, 1, ... With tasks the tasks take turns, and inside a task its seeds
    do. The rows of a smaller budget are the first of a larger budget's. Memory: as of `bids_rows`.

    Args:
        sweep: the finished sweep.
        relevance: makes the relevance of the rows of a shard; None for the influence of the sweep.
        budget: rows to take; all valid rows if they are fewer.
        n_threads: 0 for all; the result is the same.
        n_seeds: columns of the relevance; None for those of the influence.

    Raises:
        GdigError: naming the row and the seed of a number that is not finite.
    """
    n_seeds, of_seed = sweep.survey.n_seeds if n_seeds is None else n_seeds, sweep.tasks.of_seed
    tasks = [list(range(n_seeds))]
    if sweep.tasks:
        tasks = [np.flatnonzero(of_seed == task).tolist() for task in range(len(sweep.tasks.names))]
    return TurnRows(*_native.round_robin(sweep.store._native, tasks, budget, make=relevance, n_threads=n_threads))


def pick_by_turns(
    sweep: FinishedSweep, relevance: Relevance | None, n_seeds: int, limit: Limit, options: Config
) -> Picked:
    """Pick rows by turns of the seeds (`take_turns`). Reasons tell the seed, and the row's rank and relevance there."""
    threads = options.threads or 0
    result, n = rows_within(lambda k: take_turns(sweep, relevance, k, threads, n_seeds), sweep, limit)
    seeds = result.seeds[:n]
    reasons: dict[str, np.ndarray] = {
        "for_seed": seeds,
        "seed_rank": result.ranks[:n],
        "relevance": result.relevance[:n],
    }
    if sweep.tasks:
        reasons["for_task"] = np.array(sweep.tasks.names)[sweep.tasks.of_seed[seeds]]
    notes = []
    if result.flat:
        notes.append(f"{result.flat} of {n_seeds} seeds have no turn: all rows are equally relevant to each of them")
    return Picked(result.rows[:n], reasons, tuple(notes))


def pick_by_relevance(
    sweep: FinishedSweep, relevance: Relevance, n_seeds: int, limit: Limit, options: Config
) -> Picked:
    """Pick rows as the option `over_seeds` says, ties by row. The reason `relevance` tells what decided."""
    if options.over_seeds == "turns":
        return pick_by_turns(sweep, relevance, n_seeds, limit, options)
    over = np.max if options.over_seeds == "max" else np.mean
    of_seed = sweep.tasks.of_seed if sweep.tasks else np.zeros(n_seeds, np.int64)

    # float32, as the reason: rows that tell the same relevance are ordered by row.
    best_task = np.full(sweep.survey.rows, -np.inf, np.float32)
    for shard in sweep.store.shards:
        start, stop = sweep.store.shard_range(shard)
        x = relevance(shard).astype(np.float64)
        by_task = [over(x[:, of_seed == task], axis=1) for task in range(int(of_seed.max()) + 1)]
        valid = sweep.store.tensor(shard, "valid") != 0
        best_task[start:stop] = np.where(valid, np.max(by_task, axis=0), -np.inf)
    n_valid = sweep.survey.valid
    result, n = rows_within(lambda k: OrderedRows(highest_scores(best_task, min(k, n_valid))), sweep, limit)
    rows = result.rows[:n]
    return Picked(rows, {"relevance": best_task[rows]})


def highest(
    sweep: FinishedSweep, relevance: Relevance, n_seeds: int, depth: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the `depth` valid rows that are most relevant to each seed, ties by row: int64 and float32 [S, depth].

    `depth` is at most the number of valid rows. It takes 8 bytes times depth and seeds.
    """
    keys = _highest_keys(sweep, relevance, n_seeds, depth)
    return (keys & np.uint64(0xFFFFFFFF)).astype(np.int64), _value_of(keys)


def _highest_keys(sweep: FinishedSweep, relevance: Relevance, n_seeds: int, depth: int) -> NDArray[np.uint64]:
    """Return the keys of the `depth` highest rows of each column, the highest first, ties by row: uint64 [S, depth]."""
    best = np.zeros((n_seeds, 0), np.uint64)
    for shard in sweep.store.shards:
        start, _ = sweep.store.shard_range(shard)
        at = np.flatnonzero(sweep.store.tensor(shard, "valid"))
        best = np.concatenate([best, _keys(relevance(shard)[at].T, start + at)], axis=1)
        if best.shape[1] > depth:
            best = np.partition(best, depth - 1, axis=1)[:, :depth]
    return np.sort(best, axis=1)


def _keys(values: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Keys of entries [S, n]: the smallest key is the highest value, ties by row. Rows take the lower 32 bits."""
    bits = np.ascontiguousarray(values + np.float32(0)).view(np.uint32)  # the sum makes -0 a 0
    rising = np.where(bits >> 31, ~bits, bits | np.uint32(0x80000000))
    return ((~rising).astype(np.uint64) << np.uint64(32)) | rows.astype(np.uint64)


def _value_of(keys: NDArray[np.uint64]) -> NDArray[np.float32]:
    """The values that keys were made from."""
    rising = ~(keys >> np.uint64(32)).astype(np.uint32)
    return np.where(rising >> 31, rising & np.uint32(0x7FFFFFFF), ~rising).astype(np.uint32).view(np.float32)
