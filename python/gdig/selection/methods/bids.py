"""BIDS (arXiv 2501.12147): each row is taken for the seed that gains most over the rows taken before."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gdig import _native
from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.nouns import counted
from gdig.selection.method import FinishedSweep, Picked, rows_within
from gdig.store.sketches import SketchStore


class BidsRows(NamedTuple):
    """Rows in the order in which BIDS takes them.

    rows: int64 [n]. seeds: uint32 [n], the seed that each row is taken for. gains: float64 [n], the row's influence on
    that seed above the mean of the rows before, in standard deviations. flat: seeds on which all rows have one
    influence; these have no vote.
    """

    rows: NDArray[np.int64]
    seeds: NDArray[np.uint32]
    gains: NDArray[np.float64]
    flat: int


def bids_rows(
    influence: SketchStore | NDArray[np.float32], budget: int, valid: NDArray[np.bool_] | None = None
) -> BidsRows:
    """Take rows one by one: always the row with the largest max_j (z_ij - mean of z_kj over the rows k taken).

    z is the influence less the mean of its column over the valid rows, divided by the column's sample standard
    deviation, in float64. Equal gains go to the lower row, then to the lower column. The rows of a smaller budget are
    the first of a larger budget's. Memory: some thousand entries of 16 bytes a column. A column that runs out of
    entries gets four times as many, up to the budget or 2 GB; beyond this the influence is read again.

    Args:
        influence: float32 [N, S], C-contiguous; or a finished sweep, whose shards are read in place.
        budget: rows to take; all valid rows if they are fewer.
        valid: bool [N], rows that may be taken; all rows without it. A sweep has its own.

    Raises:
        GdigError: naming the row and the seed of an influence that is not finite; when there are no seeds.
        StoreError: the same, naming the shard too.
        ValueError: when the array has another dtype or shape, or `valid` is given with a sweep.
    """
    if isinstance(influence, SketchStore):
        return BidsRows(*_native.bids(influence._native, budget, None if valid is None else _bytes(valid)))
    return BidsRows(*_native.bids(influence, budget, None if valid is None else _bytes(valid)))


def bids(sweep: FinishedSweep, limit: Limit, random_seed: int, options: Config) -> Picked:
    """Pick rows one by one, each for the seed that it helps most beyond the mean of the rows before."""
    result, n = rows_within(lambda n: bids_rows(sweep.store, n), sweep, limit)
    rows, seeds, gains = result.rows[:n], result.seeds[:n], result.gains[:n]
    reasons: dict[str, np.ndarray] = {"for_seed": seeds, "gain": gains}
    if sweep.tasks:
        reasons["for_task"] = np.array(sweep.tasks.names)[sweep.tasks.of_seed[seeds]]
    n_seeds = sweep.survey.n_seeds
    notes = [f"rows were taken for {len(np.unique(seeds))} of {counted(n_seeds, 'seed')}"]
    if result.flat:
        notes.append(f"{result.flat} of {n_seeds} seeds have no vote: all rows have one influence on each of them")
    return Picked(rows, reasons, tuple(notes))


def _bytes(valid: np.ndarray) -> NDArray[np.uint8]:
    return np.ascontiguousarray(valid, dtype=np.bool_).view(np.uint8)
