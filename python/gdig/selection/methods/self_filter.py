"""Self-Filter (arXiv 2402.12501): the hardest rows; each selected row makes its neighbours less wanted."""

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
from gdig.errors import AmountError, ConfigError
from gdig.nouns import counted
from gdig.selection.method import FinishedSweep, Picked
from gdig.selection.neighbours import NeighbourCache, column, nearest
from gdig.store.sketches import SketchStore

GAMMA = 1.0
"""Factor of the penalty on a neighbour."""
STORED = 4
"""Neighbours searched for beforehand, for each that a selected row lowers: some of them are selected by then."""


def asked(options: Config) -> int:
    """Return how many neighbours of each sketch are searched for beforehand."""
    return 0 if options.features else STORED * options.n_neighbours


def self_filter(sweep: FinishedSweep, limit: Limit, random_seed: int, options: Config) -> Picked:
    """Pick rows by falling difficulty. Each picked row lowers the difficulty of its nearest neighbours.

    The difficulty is the stored loss, or that of the file `difficulty`, above the lowest of all valid rows. The
    n_neighbours nearest rows that are not picked lose (difficulty of the picked row) x (cosine)^2. A smaller budget's
    rows are the beginning of a larger budget's. Neighbours are those of the sketches, or of the file `features`.
    """
    store = sweep.store
    valid = column(store, "valid").astype(bool)
    difficulty = read_difficulty(options.difficulty, valid) if options.difficulty else column(store, "loss")
    difficulty = np.ascontiguousarray(difficulty, np.float32)
    costs = column(store, "tokens").astype(np.uint32) if limit.unit == "tokens" else None
    notes: tuple[str, ...] = ()
    if not options.difficulty and sweep.difficulty is not None and sweep.difficulty.is_file():
        notes = (f"difficulty is the loss; --difficulty {sweep.difficulty} selects by what gdig score-net learned",)
    if not options.features:
        picked = _penalised(
            store, int(valid.sum()), difficulty, costs, limit, random_seed, options, sweep.neighbour_cache
        )
        return replace(picked, notes=(*notes, *picked.notes))
    x = read_features(Path(options.features), valid)
    numbers = np.flatnonzero(valid)
    if not valid.all():  # an array has no column that tells its valid rows
        x, difficulty, costs = x[numbers], difficulty[numbers], None if costs is None else costs[numbers]
    picked = _penalised(x, len(numbers), difficulty, costs, limit, random_seed, options)
    return replace(picked, rows=numbers[picked.rows], notes=(*notes, *picked.notes))


def hardest_rows(
    features: NDArray[Any], difficulty: NDArray[Any], n: int, *, n_neighbours: int = 10, random_seed: int = 0
) -> NDArray[np.int64]:
    """Select as `self_filter` does among rows that no run has swept, such as those of a vision-language model.

    Args:
        features: [N, F] floats, whose cosines define neighbours.
        difficulty: [N] floats, higher is harder, such as `gdig.training.difficulty` returns.
        n: rows to select.
        n_neighbours: rows that a selected row lowers.
        random_seed: of the search for neighbours among more than 262,144 rows.

    Returns:
        Rows, int64 [n], in the order of the selection. The rows of a smaller n are the beginning of those of a larger.

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
    cache: NeighbourCache | None = None,
) -> Picked:
    """Pick among the `count` valid rows of x. `cache`: neighbours of x that earlier searches found."""
    if options.n_neighbours >= count:
        k = options.n_neighbours
        raise AmountError(f"n_neighbours={k}: expected at most {count - 1}, because the pool has {count} valid rows")
    k = min(STORED * options.n_neighbours, count - 1)
    neighbours = nearest(x, k, count, random_seed, options, cache)
    rows, before, after, n_searched = _native.self_filter(
        x._native if isinstance(x, SketchStore) else x,
        neighbours.rows,
        neighbours.cosines,
        difficulty=difficulty,
        k=options.n_neighbours,
        gamma=GAMMA,
        limit=limit,
        tokens=costs,
        n_threads=options.threads or 0,
    )
    notes = neighbours.notes
    if n_searched:
        notes = (*notes, f"{counted(n_searched, 'row')} had no free neighbours left; all rows were searched for others")
    return Picked(rows, {"difficulty": before, "difficulty_left": after}, notes)
