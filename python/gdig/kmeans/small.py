"""Warns where rows are so small that their squares underflow in float32.

Of a float32 sum of d products, underflow takes at most d 2^-150, and rounding up to d 2^-24 of the squared norms. So
from a squared norm of 2^-126 on, the least normal number, underflow takes no more than rounding may.

The kernels of bfloat16 take what is below 2^-126 for zero: up to d 2^-125 of a sum. They round by up to 2^-7 of the
squared norms, so underflow takes no more from d 2^-118 on.
"""

from __future__ import annotations

import os
import warnings
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gdig import _native
from gdig.kmeans.rows import n_columns
from gdig.store.gather import gather, gather_sketches
from gdig.store.sketches import SketchStore

_LOOKED_AT = 4_096
"""Rows of an array that are looked at."""

_LOOKED_AT_IN_STORE = 1_024
"""Rows of a store that are looked at; each may be a read of the disk."""


def least_squared_norm(rows: SketchStore | NDArray[Any], kernel: str | None, unit_normalize: bool) -> float:
    """Return the squared norm from which on underflow takes no more than rounding may.

    Args:
        rows: the rows of the fit.
        kernel: the name that the fit was given.
        unit_normalize: whether rows are scaled to unit length; then float32 has to hold their own squares alone.
    """
    kernel = kernel or os.environ.get("GDIG_KERNEL")
    if kernel:
        flushes = "bf16" in kernel
    else:
        halves = isinstance(rows, SketchStore) and rows.dtype == "bfloat16"
        flushes = halves and any("bf16" in name for name in _native.kernels())
    return n_columns(rows) * 2.0**-118 if flushes and not unit_normalize else 2.0**-126


def warn_of_underflow(
    rows: SketchStore | NDArray[Any],
    centroids: NDArray[np.float32],
    mean_squared: float,
    least: float,
    unit_normalize: bool,
) -> bool:
    """Warn, and return True, if the squares of the rows less their mean underflow in float32.

    Looks at about 4,096 rows, evenly spaced; of a store, only where the centroids are as small. With `unit_normalize`,
    the squares are those of the rows as they are.

    Args:
        rows: the rows of the fit.
        centroids: [K, d].
        mean_squared: the mean over the rows of the squared distance to the nearest centroid.
        least: of :func:`least_squared_norm`.
        unit_normalize: whether rows are scaled to unit length.
    """
    apart = centroids.astype(np.float64) - centroids.mean(0, dtype=np.float64)
    if not unit_normalize and mean_squared + float(np.square(apart).sum(1).max()) >= least:
        return False
    x = _looked_at(rows)
    if not len(x):
        return False
    largest = own = _largest_norm(x)
    if not unit_normalize:
        x -= x[0].copy()
        largest = _largest_norm(x - x.mean(0))
        # Where rounding to float32 takes as much as the rows differ, they lie far from the origin.
        if own >= least**0.5 and own * 2.0**-24 >= largest:
            return False
    if not 0 < largest < least**0.5:
        return False
    warnings.warn(
        "KMeans: the rows are so small that their squares underflow in float32: largest squared norm "
        f"{Decimal(largest) ** 2:.2g}{'' if unit_normalize else ' from their mean'}, expected at least {least:.2g}; "
        "scale the rows up",
        RuntimeWarning,
        stacklevel=4,  # of who has called fit
    )
    return True


def _looked_at(rows: SketchStore | NDArray[Any]) -> NDArray[np.float64]:
    if isinstance(rows, np.ndarray):
        return rows[:: max(1, len(rows) // _LOOKED_AT)].astype(np.float64)
    at = np.arange(0, len(rows), max(1, len(rows) // _LOOKED_AT_IN_STORE))
    if "valid" in rows.tensor_names:
        at = at[gather(rows, "valid", at) != 0]
    return gather_sketches(rows, at).astype(np.float64)


def _largest_norm(x: NDArray[np.float64]) -> float:
    """Divided by the largest entry, rows have squares that neither overflow nor underflow."""
    peak = float(np.abs(x).max())
    return peak * float(np.sqrt(np.square(x / peak).sum(1).max())) if peak > 0 else 0.0
