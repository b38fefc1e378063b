"""BIDS (arXiv 2501.12147): each row is taken for the seed that would gain most over what was taken before."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gdig import _native
from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.selection.method import Picked, Swept, taken_within
from gdig.store.sketches import SketchStore


class Greedy(NamedTuple):
    """Rows in the order taken.

    rows: int64 [n]. seeds: uint32 [n], the column that each was taken for. gains: float64 [n], by how many standard
    deviations of that column it exceeds the mean of the rows taken before. flat: how many columns hold one number
    alone; they have no say.
    """

    rows: NDArray[np.int64]
    seeds: NDArray[np.uint32]
    gains: NDArray[np.float64]
    flat: int


def greedy(influence: SketchStore | NDArray[np.float32], budget: int, valid: NDArray[np.bool_] | None = None) -> Greedy:
    """Take rows one by one: the one with the largest max_j (z_ij - mean over those taken of z_kj).

    z is the influence less its column's mean over the valid rows, divided by its standard deviation there (of a sample:
    n - 1), in float64. Equal gains go to the lower row, then the lower column. The rows of a smaller budget are the
    first of a larger one's. Memory: some thousand entries of 16 bytes a column, four times as many each time that a
    column runs out of them, up to the budget or 2 GB; what does not fit is read again.

    Args:
        influence: float32 [N, S], C-contiguous; or a finished sweep, whose shards are read in place.
        budget: rows to take; all valid ones if they are fewer.
        valid: bool [N], rows that may be taken; all without it. A sweep has its own.

    Raises:
        GdigError: naming the row and the seed of an influence that is not finite; when there are no seeds.
        StoreError: the same, naming the shard too.
        ValueError: when the array has another dtype or shape, or `valid` is given with a sweep.
    """
    if isinstance(influence, SketchStore):
        return Greedy(*_native.bids(influence._native, budget, None if valid is None else _bytes(valid)))
    return Greedy(*_native.bids(influence, budget, None if valid is None else _bytes(valid)))


def bids(swept: Swept, limit: Limit, random_seed: int, options: Config) -> Picked:
    """Rows taken one by one, each for the seed that it serves best beyond the mean of those taken before."""
    found, n = taken_within(lambda n: greedy(swept.store, n), swept, limit)
    rows, seeds, gains = found.rows[:n], found.seeds[:n], found.gains[:n]
    reasons: dict[str, np.ndarray] = {"for_seed": seeds, "gain": gains}
    if swept.tasks:
        reasons["for_task"] = np.array(swept.tasks.names)[swept.tasks.of_seed[seeds]]
    n_seeds = swept.survey.n_seeds
    notes = [f"rows were taken for {len(np.unique(seeds))} of {n_seeds} seeds"]
    if found.flat:
        notes.append(f"{found.flat} of {n_seeds} seeds hold all rows equal and have no say")
    return Picked(rows, reasons, tuple(notes))


def _bytes(valid: np.ndarray) -> NDArray[np.uint8]:
    return np.ascontiguousarray(valid, dtype=np.bool_).view(np.uint8)
