"""Self-Filter (arXiv 2402.12501): the hardest rows, each of which makes its neighbours less wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from gdig import _native
from gdig.config import Budget, Config
from gdig.errors import ConfigError
from gdig.store import SketchStore
from gdig.strategies.base import Picked, Swept
from gdig.strategies.neighbours import column, nearest

GAMMA = 1.0
"""Factor of a penalty."""
STORED = 4
"""Neighbours found beforehand, for each that a chosen row lowers: some will have been chosen by then."""


def asked(options: Config) -> int:
    """How many neighbours of each sketch are found beforehand, if there are as many."""
    return 0 if options.features else STORED * options.n_neighbours


def self_filter(swept: Swept, budget: Budget, seed: int, options: Config) -> Picked:
    """Rows by falling difficulty, where each chosen row lowers the difficulty of its nearest neighbours among the rest.

    Difficulty is the stored loss, or what the file `difficulty` says; it counts from the lowest of all valid rows. The
    n_neighbours nearest rows that are left lose (difficulty of the chosen) x (cosine)^2. A smaller budget's rows are
    the beginning of a larger one's. Neighbours are those of the sketches, or of the file `features`.
    """
    store = swept.store
    valid = column(store, "valid").astype(bool)
    difficulty = _difficulty(options.difficulty, valid) if options.difficulty else column(store, "loss")
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
    kept = swept.kept if x is store else None
    near = nearest(x, min(STORED * options.n_neighbours, count - 1), count, seed, options, kept)
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


def read_features(path: Path, valid: NDArray[np.bool_]) -> NDArray[Any]:
    """Open the user's features [N, any]: .npy (mapped), or safetensors with the tensor `features`, or a single one.

    Args:
        path: the file.
        valid: which rows of the pool count, [N].

    Raises:
        ConfigError: naming the file and the row, if it is not there, no such file, of another length, or not finite.
    """
    x = _read_safetensors(path) if path.suffix == ".safetensors" else _read_npy(path, "features")
    n = len(valid)
    if x.ndim != 2 or len(x) != n or x.shape[1] == 0:
        raise ConfigError(f"features: {path}: expected [{n}, any], a row for each of the pool; got {list(x.shape)}")
    if x.dtype not in (np.float16, np.float32, np.float64):
        raise ConfigError(f"features: {path}: expected float16, float32 or float64, got {x.dtype}")
    step = max(1, (1 << 24) // x.shape[1])
    for start in range(0, n, step):
        bad = valid[start : start + step] & ~np.isfinite(x[start : start + step]).all(1)
        if bad.any():
            row = start + int(np.argmax(bad))
            at = int(np.argmin(np.isfinite(x[row])))
            raise ConfigError(f"features: {path}: row {row}, column {at}: expected a finite number, got {x[row, at]}")
    return np.ascontiguousarray(x)


def _difficulty(file: str, valid: NDArray[np.bool_]) -> NDArray[Any]:
    found = _read_npy(Path(file), "difficulty")
    if found.shape != valid.shape or found.dtype.kind != "f":
        expected = f"floats [{len(valid)}], one for each row of the pool"
        raise ConfigError(f"difficulty: {file}: expected {expected}; got {found.dtype} {list(found.shape)}")
    with np.errstate(over="ignore"):
        found = np.asarray(found, np.float32)
    bad = valid & ~np.isfinite(found)
    if bad.any():
        row = int(np.argmax(bad))
        raise ConfigError(f"difficulty: {file}: row {row}: expected a finite float32 number, got {found[row]}")
    return found


def _read_npy(path: Path, option: str) -> NDArray[Any]:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(f"{option}: {path}: expected a .npy file of numbers: {error}") from None


def _read_safetensors(path: Path) -> NDArray[Any]:
    try:
        with safe_open(path, "numpy") as file:
            names = list(file.keys())
            name = "features" if "features" in names else names[0] if len(names) == 1 else None
            if name is None:
                raise ConfigError(f"features: {path}: expected a tensor 'features', got {', '.join(names) or 'none'}")
            return file.get_tensor(name)
    except (OSError, SafetensorError, TypeError) as error:  # TypeError: bfloat16, which NumPy lacks
        raise ConfigError(f"features: {path}: cannot be read: {error}") from None
