"""Features of rows by row number: the stored sketches or a file of the user. Also difficulties from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from gdig.errors import ConfigError, StoreError
from gdig.store.gather import gather
from gdig.store.npy import open_npy
from gdig.store.sketches import SketchStore


class Features:
    """Rows of floats [N, F]. A row is read only when it is needed.

    Args:
        source: an array [N, F] of floats, or the sketches of a store.
        rows: int64 [n], the rows of the source that are used, in this order. None: all rows.

    Sketches are read as stored, without the scale of an int8 row: their users need only directions.
    """

    def __init__(self, source: SketchStore | NDArray[Any], rows: NDArray[np.int64] | None = None) -> None:
        self._source = source
        self._rows = np.arange(len(source)) if rows is None else rows

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def dim(self) -> int:
        """F."""
        return self._source.dim if isinstance(self._source, SketchStore) else self._source.shape[1]

    def units(self, at: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return rows at unit length: float32 [n, F], rounded once from float64. A row of zeros stays zero.

        Args:
            at: places in this list of rows, [n].
        """
        x = self._read(self._rows[at]).astype(np.float64)
        # Divided by its largest entry, a row has squares that neither overflow nor underflow.
        x /= np.maximum(np.abs(x).max(1, keepdims=True), np.finfo(np.float64).tiny)
        return (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1.0)).astype(np.float32)

    def _read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        if not isinstance(self._source, SketchStore):
            return self._source[rows]
        stored = gather(self._source, "sketch", rows)
        if self._source.dtype == "bfloat16":
            # NumPy has no bfloat16. The stored values are the upper halves of float32.
            return (stored.astype(np.uint32) << 16).view(np.float32)
        return stored


def read_features(path: Path, valid: NDArray[np.bool_]) -> NDArray[Any]:
    """Open a file of features [N, any]: .npy (memory-mapped), or safetensors.

    A safetensors file holds the tensor `features`, or only one tensor.

    Args:
        path: the file.
        valid: whether a row of the pool is valid, [N].

    Raises:
        ConfigError: if the file is missing, of another kind or of another number of rows, or if a valid row is not
            finite. The error names file and row.
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


def read_difficulty(file: str, valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Read difficulties [N] from a .npy file of floats, rounded to float32. A higher difficulty is harder.

    Args:
        file: the file.
        valid: whether a row of the pool is valid, [N]. The values of the other rows are not checked.

    Raises:
        ConfigError: if the file is missing, of another kind or of another number of rows, or if a valid row is not
            finite. The error names file and row.
    """
    difficulty = _read_npy(Path(file), "difficulty")
    if difficulty.shape != valid.shape or difficulty.dtype.kind != "f":
        expected = f"floats [{len(valid)}], one for each row of the pool"
        raise ConfigError(f"difficulty: {file}: expected {expected}; got {difficulty.dtype} {list(difficulty.shape)}")
    with np.errstate(over="ignore"):
        difficulty = np.asarray(difficulty, np.float32)
    bad = valid & ~np.isfinite(difficulty)
    if bad.any():
        row = int(np.argmax(bad))
        raise ConfigError(f"difficulty: {file}: row {row}: expected a finite float32 number, got {difficulty[row]}")
    return difficulty


def _read_npy(path: Path, option: str) -> NDArray[Any]:
    try:
        return open_npy(path)
    except StoreError as error:
        raise ConfigError(f"{option}: {error}") from None


def _read_safetensors(path: Path) -> NDArray[Any]:
    if not path.is_file():  # opening a pipe would wait for its writer
        raise ConfigError(f"features: {path}: expected a file, found none")
    try:
        with safe_open(path, "numpy") as file:
            names = list(file.keys())
            name = "features" if "features" in names else names[0] if len(names) == 1 else None
            if name is None:
                raise ConfigError(f"features: {path}: expected a tensor 'features', got {', '.join(names) or 'none'}")
            return file.get_tensor(name)
    except (OSError, SafetensorError, TypeError) as error:  # TypeError: bfloat16, which NumPy does not have
        raise ConfigError(f"features: {path}: cannot be read: {error}") from None
