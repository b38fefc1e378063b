"""Rows by their relevance to each seed: seeds take turns, or the greatest or the mean relevance decides."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.selection.method import FinishedSweep, Picked, rows_within

Relevance = Callable[[int], NDArray[np.float32]]
"""A shard's number -> the relevance of its rows to each seed, float32 [n, S]; any numbers for rows that are invalid."""

_LEAST_DEPTH = 64
"""Fewest rows of each column that a pass keeps."""


class TurnRows(NamedTuple):
    """Rows int64 [n], in the order of the turns. seeds: int64 [n], the seed that took each row. relevance: float32 [n],
    the row's relevance to that seed."""

    rows: NDArray[np.int64]
    seeds: NDArray[np.int64]
    relevance: NDArray[np.float32]


def pick_by_relevance(
    sweep: FinishedSweep, relevance: Relevance, n_seeds: int, limit: Limit, options: Config
) -> Picked:
    """Pick rows as the option `over_seeds` says. Reasons are `relevance`, and `for_seed` with turns."""
    if options.over_seeds != "turns":
        return _best(sweep, relevance, limit, np.max if options.over_seeds == "max" else np.mean)
    order = turn_order(sweep, n_seeds)
    result, n = rows_within(lambda k: take_turns(sweep, relevance, order, k), sweep, limit)
    reasons: dict[str, np.ndarray] = {"relevance": result.relevance[:n], "for_seed": result.seeds[:n]}
    if sweep.tasks:
        reasons["for_task"] = np.array(sweep.tasks.names)[sweep.tasks.of_seed[result.seeds[:n]]]
    return Picked(result.rows[:n], reasons)


def turn_order(sweep: FinishedSweep, n_seeds: int) -> NDArray[np.int64]:
    """Return the seeds in the order of their turns, which then begins again: int64, at least each seed once.

    Without tasks it is 0 .. S - 1. With tasks the tasks take turns, and the seeds of a task among themselves; the order
    goes on until every seed had its turn and all tasks had equally many.
    """
    if not sweep.tasks:
        return np.arange(n_seeds)
    members = [np.flatnonzero(sweep.tasks.of_seed == task) for task in range(len(sweep.tasks.names))]
    rounds = int(np.lcm.reduce([len(seeds) for seeds in members]))
    rounds = rounds if rounds <= 1 << 20 else max(map(len, members))
    return np.stack([np.resize(seeds, rounds) for seeds in members], axis=1).ravel()


def take_turns(sweep: FinishedSweep, relevance: Relevance, order: NDArray[np.int64], budget: int) -> TurnRows:
    """Let seeds take turns: each takes the free valid row with the highest relevance to it, ties by row.

    A seed needs the highest rows of its column alone. A pass over the shards keeps some of them, at first twice a
    seed's share of the budget. A column that runs out asks for a pass that keeps four times as many, up to the budget.
    So memory is 8 bytes times the kept rows and the seeds, and the result does not depend on what a pass keeps. A
    smaller budget's rows are the first of a larger one's.

    Args:
        sweep: the finished sweep.
        relevance: of each shard.
        order: seeds in the order of their turns.
        budget: rows to take; all valid rows if they are fewer.
    """
    budget = min(budget, sweep.survey.valid)
    n_seeds = int(order.max()) + 1
    depth = max(_LEAST_DEPTH, 2 * -(-budget // n_seeds))
    while True:
        keys = _highest_keys(sweep, relevance, n_seeds, min(depth, budget))
        result = _take(keys, order, budget, depth >= budget)
        if result is not None:
            return result
        depth *= 4


def _take(keys: NDArray[np.uint64], order: NDArray[np.int64], budget: int, complete: bool) -> TurnRows | None:
    """Take turns over the kept rows of each column [S, depth], the highest first. None if a column runs out too early.

    `complete`: the columns hold at least `budget` rows, so that none can run out.
    """
    lists = [(column & np.uint64(0xFFFFFFFF)).astype(np.int64).tolist() for column in keys]
    pointers = [0] * len(lists)
    taken: set[int] = set()
    rows: list[int] = []
    seeds: list[int] = []
    places: list[int] = []
    turn = 0
    turns = order.tolist()
    while len(rows) < budget:
        seed = turns[turn % len(turns)]
        turn += 1
        column, at = lists[seed], pointers[seed]
        while at < len(column) and column[at] in taken:
            at += 1
        if at == len(column):
            assert not complete, "as many rows as the budget are kept, and one of them is free"
            return None
        taken.add(column[at])
        rows.append(column[at])
        seeds.append(seed)
        places.append(at)
        pointers[seed] = at + 1
    picked = keys[np.array(seeds, np.int64), np.array(places, np.int64)] if rows else np.zeros(0, np.uint64)
    return TurnRows(np.array(rows, np.int64), np.array(seeds, np.int64), _value_of(picked))


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


def _best(sweep: FinishedSweep, relevance: Relevance, limit: Limit, over: Callable[..., np.ndarray]) -> Picked:
    """Pick the rows with the highest `over` of the relevances to a task's seeds, of the best task; ties by row."""
    of_seed = sweep.tasks.of_seed if sweep.tasks else None

    def column(shard: int) -> NDArray[np.float32]:
        x = relevance(shard).astype(np.float64)
        groups = [slice(None)] if of_seed is None else [of_seed == task for task in range(len(sweep.tasks.names))]
        return np.max([over(x[:, group], axis=1) for group in groups], axis=0)[:, None].astype(np.float32)

    result, n = rows_within(lambda k: take_turns(sweep, column, np.zeros(1, np.int64), k), sweep, limit)
    return Picked(result.rows[:n], {"relevance": result.relevance[:n]})
