"""Self-Filter (arXiv 2402.12501): the hardest rows, each of which makes its neighbours less wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gdig import _native
from gdig.config import Budget, Config
from gdig.data.features import read_difficulty, read_features
from gdig.errors import ConfigError
from gdig.store import SketchStore
from gdig.strategies.base import Picked, Swept
from gdig.strategies.neighbours import column, nearest

GAMMA = 1.0
"""Factor of a penalty."""
STORED = 4
"""Neighbours found beforehand, for each that a chosen row lowers: some will have been chosen by then."""


def self_filter(swept: Swept, budget: Budget, seed: int, options: Config) -> Picked:
    """Rows by falling difficulty, where each chosen row lowers the difficulty of its nearest neighbours among the rest.

    Difficulty is the stored loss, or what the file `difficulty` says; it counts from the lowest of all valid rows. The
    n_neighbours nearest rows that are left lose (difficulty of the chosen) x (cosine)^2. A smaller budget's rows are
    the beginning of a larger one's. Neighbours are those of the sketches, or of the file `features`.
    """
    store = swept.store
    valid = column(store, "valid").astype(bool)
    difficulty = read_difficulty(options.difficulty, valid) if options.difficulty else column(store, "loss")
    difficulty = np.ascontiguousarray(difficulty, np.float32)
    costs = column(store, "tokens").astype(np.uint32) if budget.unit == "tokens" else None
    numbers: NDArray[np.int64] | None = None
    x: SketchStore | NDArray[Any] = store
    if options.features:
        x = read_features(Path(options.features), valid)
        if not valid.all():  # an array has no column that says which of its rows count
            numbers = np.flatnonzero(valid)
            x, difficulty, costs = x[numbers], difficulty[numbers], None if costs is None else costs[numbers]
    count = int(valid.sum())
    if options.n_neighbours >= count:
        raise ConfigError(
            f"n_neighbours: a row of {count} valid ones has {count - 1} others; got {options.n_neighbours}"
        )
    near = nearest(x, min(STORED * options.n_neighbours, count - 1), count, seed, options)
    rows, before, left, searched = _native.penalised_rows(
        x._native if isinstance(x, SketchStore) else x,
        near.rows,
        near.cosines,
        difficulty=difficulty,
        k=options.n_neighbours,
        gamma=GAMMA,
        budget=int(budget.amount),
        costs=costs,
        n_threads=options.threads or 0,
    )
    notes = near.notes
    if searched:
        notes = (*notes, f"all rows were searched for the neighbours of {searched} rows, whose own had been chosen")
    rows = rows if numbers is None else numbers[rows]
    return Picked(rows, {"difficulty": before, "difficulty_left": left}, notes)
