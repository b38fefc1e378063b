"""The distances of rows to all centroids."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gdig.errors import InputError
from gdig.kmeans.rows import blocks
from gdig.store.sketches import SketchStore

_ROWS = 4_096
"""Rows whose distances are computed at once."""


def distances_to_all(
    rows: SketchStore | NDArray[Any], centroids: NDArray[np.float32], unit_normalize: bool
) -> NDArray[np.float32]:
    """Return the Euclidean distance of each row to each centroid, [n, K]; NaN for an invalid row of a store.

    Raises:
        InputError: if a number of an array is not finite; the message names its row.
    """
    middle = centroids.mean(0, dtype=np.float64)
    centred = centroids - middle
    squares = np.square(centred).sum(1)
    distances = np.empty((len(rows), len(centred)), np.float32)
    for start, block in blocks(rows, _ROWS):
        if isinstance(rows, np.ndarray):
            _check_finite(block, start)
        if unit_normalize:
            norms = np.linalg.norm(block, axis=1, keepdims=True)
            block /= np.where(norms > 0, norms, 1)
        x = block - middle
        squared = np.square(x).sum(1)[:, None] + squares - 2 * (x @ centred.T)
        distances[start : start + len(x)] = np.sqrt(np.maximum(squared, 0))
    return distances


def _check_finite(block: NDArray[np.float32], first: int) -> None:
    bad = np.argwhere(~np.isfinite(block))
    if len(bad):
        row, column = bad[0]
        value = "NaN" if np.isnan(block[row, column]) else block[row, column]
        raise InputError(f"row {first + row}, column {column}: expected a finite number, got {value}")
