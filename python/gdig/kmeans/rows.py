"""The rows that a user hands to k-means, as the core reads them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gdig import _native
from gdig.errors import GdigError, InputError
from gdig.store.npy import open_npy
from gdig.store.sketches import SketchStore

RowSource: TypeAlias = "SketchStore | str | Path | ArrayLike"
"""What KMeans takes as rows; the class lists the types."""

LEAST_WEIGHT = 1e-30
"""A share of the largest weight that counts as 0, because float32 does not hold its products."""

_READ_AS_THEY_ARE = (np.float16, np.float32, np.float64)


def as_rows(X: RowSource) -> SketchStore | NDArray[Any]:
    """Return rows as a store or as an array that the core reads: [n, d], C-contiguous, of floats.

    An array that is so already is not copied. Integers become float32 where that holds all of their type, else float64.

    Raises:
        ValueError: if there are no columns, or not two dimensions; if the numbers are complex.
        TypeError: if the rows are a sparse matrix, or hold something else than numbers.
    """
    if isinstance(X, (str, Path)):
        path = Path(X)
        X = open_npy(path) if path.suffix == ".npy" else SketchStore.open(path)
    if isinstance(X, SketchStore):
        X.flush()
        return X
    if hasattr(X, "tocsr"):
        raise TypeError("x: expected dense rows, got a sparse matrix or array; X.toarray() makes it dense")
    array = np.asarray(X)
    if array.dtype.kind == "c":
        raise ValueError("x: Complex data not supported; expected real numbers, got complex ones")
    if array.ndim != 2:
        raise InputError(
            f"x: expected rows [n, d], got the shape {array.shape}. Reshape your data with x.reshape(1, -1) if it is "
            "one row, with x.reshape(-1, 1) if it is one column"
        )
    if array.shape[1] == 0:
        raise InputError(f"x: 0 feature(s) (shape={array.shape}) while a minimum of 1 is required.")
    if array.dtype not in _READ_AS_THEY_ARE:
        small = array.dtype.kind in "iub" and array.dtype.itemsize <= 2
        array = array.astype(np.float32 if small else np.float64)
    return np.require(array, dtype=array.dtype.newbyteorder("="), requirements=["C", "A"])


def n_columns(rows: SketchStore | NDArray[Any]) -> int:
    """Return the number of columns."""
    return rows.dim if isinstance(rows, SketchStore) else int(rows.shape[1])


def native(rows: SketchStore | NDArray[Any]) -> _native.Store | NDArray[Any]:
    """Return what the functions of the core take."""
    return rows._native if isinstance(rows, SketchStore) else rows


def stay_in_memory(rows: SketchStore | NDArray[Any]) -> bool:
    """Whether the rows are an array in memory, neither a store nor a mapped file."""
    return isinstance(rows, np.ndarray) and not isinstance(rows, np.memmap)


def blocks(rows: SketchStore | NDArray[Any], step: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Go over all rows in float32, at most `step` at a time: the number of the first one, and [<= step, d].

    Rows of a store whose `valid` is 0 are NaN.
    """
    if isinstance(rows, np.ndarray):
        for start in range(0, len(rows), step):
            yield start, rows[start : start + step].astype(np.float32)
        return
    for shard in range(rows.n_shards):
        x = rows.rows_float32(shard)
        if "valid" in rows.tensor_names:
            x = np.where(rows.tensor(shard, "valid")[:, None] != 0, x, np.float32(np.nan))
        first = rows.shard_range(shard)[0]
        for start in range(0, len(x), step):
            yield first + start, x[start : start + step]


def as_weights(sample_weight: ArrayLike | None, n: int) -> tuple[NDArray[np.float32] | None, float]:
    """Return weights as shares of the largest, float32 [n], and the largest; (None, 1) without weights.

    Raises:
        ValueError: if the weights are not one finite number of at least 0 for each row, or are all 0.
    """
    if sample_weight is None:
        return None, 1.0
    weights = np.asarray(sample_weight, dtype=np.float64)
    if weights.ndim == 0:
        weights = np.full(n, weights)
    if weights.shape != (n,):
        raise InputError(f"sample_weight.shape == {weights.shape}, expected {(n,)}: a weight for each row")
    bad = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(bad):
        raise InputError(f"sample_weight[{bad[0]}]={weights[bad[0]]}: expected finite weights of at least 0")
    largest = float(weights.max(initial=0.0))
    if largest == 0:
        raise InputError("sample_weight: expected at least one weight above 0; all weights are zero")
    shares = weights / largest
    return np.where(shares < LEAST_WEIGHT, 0, shares).astype(np.float32), largest


@contextmanager
def value_errors() -> Iterator[None]:
    """Let the core's errors about rows and parameters be ValueErrors, as users of scikit-learn expect."""
    try:
        yield
    except GdigError as error:
        if type(error) is not GdigError:
            raise
        raise InputError(str(error)) from None
