"""Self-Filter (arXiv 2402.12501): the hardest rows, each of which makes its neighbours less wanted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gdig import _native
from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.data.features import read_difficulty, read_features
from gdig.errors import ConfigError
from gdig.selection.method import Picked, Swept
from gdig.selection.neighbours import Kept, column, nearest
from gdig.store.sketches import SketchStore

GAMMA = 1.0
"""Factor of a penalty."""
STORED = 4
"""Neighbours found beforehand, for each that a chosen row lowers: some will have been chosen by then."""


def asked(options: Config) -> int:
    """How many neighbours of each sketch are found beforehand, if there are as many."""
    return 0 if options.features else STORED * options.n_neighbours


def self_filter(swept: Swept, limit: Limit, random_seed: int, options: Config) -> Picked:
    """Rows by falling difficulty, where each chosen row lowers the difficulty of its nearest neighbours among the rest.

    Difficulty is the stored loss, or what the file `difficulty` says; it counts from the lowest of all valid rows. The
    n_neighbours nearest rows that are left lose (difficulty of the chosen) x (cosine)^2. A smaller budget's rows are
    the beginning of a larger one's. Neighbours are those of the sketches, or of the file `features`.
    """
    store = swept.store
    valid = column(store, "valid").astype(bool)
    difficulty = read_difficulty(options.difficulty, valid) if options.difficulty else column(store, "loss")
    difficulty = np.ascontiguousarray(difficulty, np.float32)
    costs = column(store, "tokens").astype(np.uint32) if limit.unit == "tokens" else None
    notes: tuple[str, ...] = ()
    if not options.difficulty and swept.difficulty is not None and swept.difficulty.is_file():
        notes = (f"difficulty is the loss; to choose by what gdig score-net learned: --difficulty {swept.difficulty}",)
    if not options.features:
        picked = _penalised(store, int(valid.sum()), difficulty, costs, limit, random_seed, options, swept.kept)
        return replace(picked, notes=(*notes, *picked.notes))
    x = read_features(Path(options.features), valid)
    numbers = np.flatnonzero(valid)
    if not valid.all():  # an array has no column that says which of its rows count
        x, difficulty, costs = x[numbers], difficulty[numbers], None if costs is None else costs[numbers]
    picked = _penalised(x, len(numbers), difficulty, costs, limit, random_seed, options)
    return replace(picked, rows=numbers[picked.rows], notes=(*notes, *picked.notes))


def hardest_rows(
    features: NDArray[Any], difficulty: NDArray[Any], n: int, *, n_neighbours: int = 10, random_seed: int = 0
) -> NDArray[np.int64]:
    """The choice of `self_filter` for rows that no run has swept, such as those of a vision-language model.

    Args:
        features: [N, F] floats, whose cosines say what is a neighbour.
        difficulty: [N] floats, higher is harder, such as `gdig.training.difficulty` tells.
        n: rows to choose.
        n_neighbours: rows that a chosen one lowers.
        random_seed: of the search for neighbours among more than 262,144 rows.

    Returns:
        Rows, in the order chosen; fewer than n rows are the beginning of it.

    Raises:
        ConfigError: if an array is of another shape or not finite, or n is not between 1 and N.
    """
    for name, x, rank in (("features", features, 2), ("difficulty", difficulty, 1)):
        if x.ndim != rank or len(x) != len(features) or x.dtype.kind != "f" or 0 in x.shape:
            expected = "[rows, any]" if rank == 2 else f"[{len(features)}]"
            raise ConfigError(f"{name}: expected floats {expected}, got {x.dtype} {list(x.shape)}")
        if not (finite := np.isfinite(x).reshape(len(x), -1).all(1)).all():
            raise ConfigError(f"{name}: row {int(np.argmin(finite))}: expected finite numbers")
    if not 1 <= n <= len(features):
        raise ConfigError(f"n: expected 1 to {len(features)} rows, got {n}")
    options = Config(n_neighbours=n_neighbours)
    rows, hard = np.ascontiguousarray(features), np.ascontiguousarray(difficulty, np.float32)
    return _penalised(rows, len(rows), hard, None, Limit("rows", n), random_seed, options).rows


def _penalised(
    x: SketchStore | NDArray[Any],
    count: int,
    difficulty: NDArray[np.float32],
    costs: NDArray[np.uint32] | None,
    limit: Limit,
    random_seed: int,
    options: Config,
    kept: Kept | None = None,
) -> Picked:
    """Choose among the `count` valid rows of x. kept: what earlier searches of it for neighbours left."""
    if options.n_neighbours >= count:
        raise ConfigError(
            f"n_neighbours: a row of {count} valid ones has {count - 1} others; got {options.n_neighbours}"
        )
    near = nearest(x, min(STORED * options.n_neighbours, count - 1), count, random_seed, options, kept)
    rows, before, left, searched = _native.self_filter(
        x._native if isinstance(x, SketchStore) else x,
        near.rows,
        near.cosines,
        difficulty=difficulty,
        k=options.n_neighbours,
        gamma=GAMMA,
        limit=limit,
        tokens=costs,
        n_threads=options.threads or 0,
    )
    notes = near.notes
    if searched:
        notes = (*notes, f"all rows were searched for the neighbours of {searched} rows, whose own had been chosen")
    return Picked(rows, {"difficulty": before, "difficulty_left": left}, notes)
