"""Draws of rows from clusters, and samples of rows; a random seed decides both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gdig import _native
from gdig.config.options import Quotas

__all__ = ["label_counts", "resample", "row_hash", "sample_rows"]


def resample(
    labels: NDArray[Any] | str | Path,
    budget: int,
    random_seed: int,
    weights: NDArray[Any] | None = None,
    *,
    priority: NDArray[Any] | None = None,
    costs: NDArray[Any] | None = None,
    quotas: Quotas = "equal",
) -> NDArray[np.int64]:
    """Draw `budget` rows from the clusters, without replacement.

    A cluster's share of the budget is in proportion to its weight w: 1, its number n of eligible rows, or sqrt(n). A
    cluster with too few rows leaves the rest of its share to the other clusters. Rows that rounding leaves go to the
    largest remainders.

    Row r of a cluster's own order (from 0) is drawn at the position (r + 1/2) / w. A hashed order of the clusters
    decides ties. So clusters with equal quotas take turns, and the result for a larger budget begins with the rows of a
    smaller budget.

    The result is independent of the number of threads and of the storage of the rows. Memory holds the clusters and the
    drawn rows. Equal quotas read the labels once, other quotas twice; costs need two or more reads.

    Args:
        labels: [N] uint32, int32 or int64, the cluster of each row, 0 to 2^28 - 1; -1 or 4294967295 for a row that is
            not eligible. Or a directory of label files (:meth:`gdig.KMeans.write_labels`), which are read one at a
            time. A directory excludes weights, priority and costs.
        budget: the number of rows, or with `costs` the largest sum of their costs.
        random_seed: the random seed of the hashes.
        weights: [N] float32 or float64, >= 0. Rows of a cluster are drawn in proportion to their weights (Efraimidis
            and Spirakis 2006); a row of weight 0 is never drawn. The default is equal weights.
        priority: [N] float32 or float64. Rows of a cluster are drawn from the highest priority down; row numbers decide
            ties.
        costs: [N] int32 or int64, >= 0, such as tokens. The result is the longest beginning of the order of all
            eligible rows that the budget allows; later, cheaper rows are not tried.
        quotas: "equal", "proportional" or "sqrt".

    Returns:
        int64 [n], row numbers in the order of the draw; n is below the budget if too few rows are eligible.

    Raises:
        GdigError: if a weight is negative or infinite, a number is NaN, a cost is negative, or a label is out of range;
            the message names the row. Or if an array has another length than `labels`.
        StoreError: if a label file is missing or damaged; the message names the file.
        ValueError: if there are both weights and priority, if the budget is negative, or if `quotas` has another
            value. Also if an array is not C-contiguous or has another dtype.

    Example:
        >>> labels = np.array([0, 0, 0, 1, 1, -1], np.int64)
        >>> rows = resample(labels, budget=4, random_seed=0)
        >>> sorted(labels[rows].tolist())
        [0, 0, 1, 1]
    """
    if weights is not None and priority is not None:
        raise ValueError("weights and priority: expected at most one of the two; leave out weights or priority")
    if budget < 0:
        raise ValueError(f"budget={budget}: expected at least 0")
    if isinstance(labels, (str, Path)):
        if not (weights is priority is costs is None):
            raise ValueError(
                "weights, priority and costs: expected none of the three, because labels is a directory; "
                "give the labels as an array (gdig.kmeans.load_labels)"
            )
        return _native.resample_files(labels, budget, _check_seed(random_seed), quotas)
    weights, priority, costs = (None if array is None else np.asarray(array) for array in (weights, priority, costs))
    return _native.resample(np.asarray(labels), budget, _check_seed(random_seed), weights, priority, costs, quotas)


def sample_rows(n: int, k: int, random_seed: int, eligible: NDArray[Any] | None = None) -> NDArray[np.int64]:
    """Draw `k` of `n` rows uniformly, without replacement: the rows with the smallest hash of (random_seed, row).

    Args:
        n: the number of rows.
        k: the number of rows to draw. If fewer rows are eligible, all of them are drawn.
        random_seed: the random seed of the hash.
        eligible: [n] bool or uint8; rows with 0 are not drawn. None: all rows are eligible.

    Returns:
        int64 [k], row numbers, ascending.

    Example:
        >>> rows = sample_rows(10, 3, random_seed=0)
        >>> len(rows), bool((rows[:-1] < rows[1:]).all())
        (3, True)
    """
    return _native.sample_rows(n, k, _check_seed(random_seed), None if eligible is None else np.asarray(eligible))


def label_counts(labels: str | Path) -> NDArray[np.int64]:
    """Count the rows of each label in a directory of label files, which are read one at a time.

    Returns:
        int64 [largest label + 1].

    Raises:
        StoreError: if a label file is missing or damaged; the message names the file.
    """
    return _native.label_counts(labels).astype(np.int64)


def row_hash(random_seed: int, rows: NDArray[Any]) -> NDArray[np.uint64]:
    """Return XXH3-64, with this random seed, of each row number as 8 little-endian bytes: uint64, shape of `rows`."""
    return _native.row_hash(_check_seed(random_seed), np.ascontiguousarray(rows, dtype=np.int64))


def _check_seed(random_seed: int) -> int:
    if not 0 <= random_seed < 2**64:
        raise ValueError(f"random_seed={random_seed}: expected a whole number from 0 to 2^64 - 1")
    return int(random_seed)
