"""Round robin (arXiv 2503.01807): the seeds take turns, and each takes the free row that is most relevant to it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gdig import _native
from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.selection.method import FinishedSweep, Picked, rows_within
from gdig.selection.relevance import RELEVANCE, Relevance


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


def take_turns(sweep: FinishedSweep, relevance: Relevance | None, budget: int, n_threads: int = 0) -> TurnRows:
    """Let the seeds take turns: each takes the free valid row with the highest relevance to it, ties by row.

    Without tasks the turns are those of seeds 0, 1, ... With tasks the tasks take turns, and inside a task its seeds
    do. The rows of a smaller budget are the first of a larger budget's. Memory: as of `bids_rows`.

    Args:
        sweep: the finished sweep.
        relevance: makes the relevance of the rows of a shard; None for the influence of the sweep.
        budget: rows to take; all valid rows if they are fewer.
        n_threads: 0 for all; the result is the same.

    Raises:
        GdigError: naming the row and the seed of a number that is not finite.
    """
    n_seeds, of_seed = sweep.survey.n_seeds, sweep.tasks.of_seed
    tasks = [list(range(n_seeds))]
    if sweep.tasks:
        tasks = [np.flatnonzero(of_seed == task).tolist() for task in range(len(sweep.tasks.names))]
    return TurnRows(*_native.round_robin(sweep.store._native, tasks, budget, make=relevance, n_threads=n_threads))


def round_robin(sweep: FinishedSweep, limit: Limit, random_seed: int, options: Config) -> Picked:
    """Pick rows by turns of the seeds, by the option `relevance`."""
    relevance = RELEVANCE[options.relevance](sweep, options)
    result, n = rows_within(lambda n: take_turns(sweep, relevance, n, options.threads or 0), sweep, limit)
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
        n_seeds = sweep.survey.n_seeds
        notes.append(f"{result.flat} of {n_seeds} seeds have no turn: all rows are equally relevant to each of them")
    return Picked(result.rows[:n], reasons, tuple(notes))
