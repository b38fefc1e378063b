"""Facility location: rows near which the whole pool lies, without the seeds (Lin and Bilmes, 2011)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gdig import _native
from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.selection.method import FinishedSweep, Picked, rows_within
from gdig.selection.neighbours import column, nearest


class FacilityRows(NamedTuple):
    """Rows in the order in which they are taken, int64 [n]. gains: float64 [n], what each adds to the coverage."""

    rows: NDArray[np.int64]
    gains: NDArray[np.float64]


def asked(options: Config) -> int:
    """Return how many neighbours of each row may cover it."""
    return options.n_neighbours


def facility(sweep: FinishedSweep, limit: Limit, random_seed: int, options: Config) -> Picked:
    """Pick rows one by one: always the row that adds most to the coverage of the pool, ties by row.

    A row is covered to the degree of its largest cosine with a picked row among its n_neighbours nearest rows; a picked
    row is covered wholly. A smaller budget's rows are the first of a larger one's.
    """
    store = sweep.store
    valid = column(store, "valid").astype(np.uint8)
    n_valid = int(valid.sum())
    neighbours = nearest(store, asked(options), n_valid, random_seed, options, sweep.neighbour_cache)

    def take(n: int) -> FacilityRows:
        return FacilityRows(*_native.facility(neighbours.rows, neighbours.cosines, valid, n))

    result, n = rows_within(take, sweep, limit)
    rows, gains = result.rows[:n], result.gains[:n]
    note = f"the rows cover {gains.sum() / max(1, n_valid):.1%} of the pool, by the cosine with the nearest of them"
    return Picked(rows, {"gain": gains}, (*neighbours.notes, note))
