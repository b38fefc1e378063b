"""Warns where rows lie so far from the origin that float32 does not hold what tells them apart."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

LOST = 1e-3
"""Share of the spread of float64 rows (as variances) that their rounding to float32 may be before it is a warning."""

COARSE = 1e-2
"""Share of the mean squared distance to a centroid that the steps of float32 may be before they are a warning."""

_LOOKED_AT = 4_096


def warn_of_lost_digits(rows: Any) -> bool:
    """Warn, and return True, if rounding to float32 takes much of what tells float64 rows apart.

    Looks at about 4,096 rows, evenly spaced.
    """
    if not isinstance(rows, np.ndarray) or rows.dtype != np.float64 or not len(rows):
        return False
    x = rows[:: max(1, len(rows) // _LOOKED_AT)]
    with np.errstate(over="ignore", invalid="ignore"):  # rows that are not finite have an error of their own
        lost = float(np.square(x - x.astype(np.float32)).sum())
        apart = x - x[0]
        spread = float(np.square(apart - apart.mean(0)).sum())
    if spread > 0 and LOST * spread < lost < float("inf"):
        _warn(lost / spread, "what rounding to float32 takes makes")
        return True
    return False


def warn_of_coarse_steps(centroids: NDArray[np.float32], counts: NDArray[np.uint64], mean_squared: float) -> None:
    """Warn if the steps of float32 where the centroids lie are nearly as large as the distances of rows to them.

    Where all rows lie on centroids, the distances between the centroids count.

    Args:
        centroids: [K, d].
        counts: [K], the rows of each.
        mean_squared: the mean over the rows of the squared distance to the nearest centroid.
    """
    # A number that is rounded to a step s is off by s^2 / 12 in the mean square.
    steps = (np.spacing(np.abs(centroids), dtype=np.float32).astype(np.float64) ** 2).sum(1) / 12
    weights = counts.astype(np.float64)
    coarse, spread = float(np.average(steps, weights=weights)), mean_squared
    if spread == 0:
        apart = centroids.astype(np.float64) - centroids[0]
        spread = float(np.average(np.square(apart - np.average(apart, 0, weights)).sum(1), weights=weights))
    if spread > 0 and coarse > COARSE * spread:
        _warn(coarse / spread, "the steps of float32 make")


def _warn(share: float, what: str) -> None:
    warnings.warn(
        f"KMeans: the rows lie so far from the origin that {what} up {share:.2g} of their spread (as variances); "
        "subtract each column's mean in float64 before the fit",
        RuntimeWarning,
        stacklevel=5,  # of who has called fit
    )
