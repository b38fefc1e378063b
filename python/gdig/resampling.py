"""Even, seeded draws from clusters, and seeded samples of rows."""

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

    A cluster's share of the budget is in proportion to its weight w: 1, its eligible rows n, or sqrt(n). What a cluster
    falls short of goes to the others, and rows left by rounding to the largest remainders. Row r of a cluster's own
    order (from 0) has its place at (r + 1/2) / w, ties by a hashed order of the clusters: with equal quotas clusters
    take turns, and the answer for a larger budget begins with the rows of a smaller one. The answer depends on
    neither threads nor how the rows are stored. Memory: for the clusters and the rows drawn. Equal quotas take one pass
    over the labels, the others two; costs take two or more.

    Args:
        labels: [N] uint32, int32 or int64: the cluster of each row, 0 to 2^28 - 1; -1 or 4294967295 for a row that is
            not eligible. Or a directory of label files (:meth:`gdig.KMeans.predict_to`), read one at a time; then
            there are no weights, priority or costs.
        budget: how many rows, or with `costs` how much they may cost together.
        random_seed: of the hashes.
        weights: [N] float32 or float64, >= 0: inside a cluster rows are drawn in proportion to them (Efraimidis and
            Spirakis, 2006); weight 0 is never drawn. Without weights and priority: uniformly.
        priority: [N] float32 or float64: inside a cluster the highest come first, equal ones by row number.
        costs: [N] int32 or int64, >= 0, such as tokens. What is drawn is the longest beginning of the order of all
            eligible rows that the budget allows; cheaper rows after it are not tried.
        quotas: "equal", "proportional" or "sqrt".

    Returns:
        int64 row numbers in the order drawn; fewer than the budget if fewer are eligible.

    Raises:
        GdigError: naming the row with a negative or infinite weight, NaN, negative cost or impossible label; or an
            array of another length than `labels`.
        StoreError: naming the label file that is missing or damaged.
        ValueError: if both weights and priority are given, the budget is negative, quotas is none of the three, or an
            array is not C-contiguous or has another dtype.
    """
    if weights is not None and priority is not None:
        raise ValueError("weights and priority: expected at most one of them")
    if budget < 0:
        raise ValueError(f"budget: expected at least 0, got {budget}")
    if isinstance(labels, (str, Path)):
        if not (weights is priority is costs is None):
            raise ValueError("weights, priority and costs: expected none of them with a directory of labels")
        return _native.resample_files(labels, budget, _checked(random_seed), quotas)
    weights, priority, costs = (None if array is None else np.asarray(array) for array in (weights, priority, costs))
    return _native.resample(np.asarray(labels), budget, _checked(random_seed), weights, priority, costs, quotas)


def sample_rows(n: int, k: int, random_seed: int, eligible: NDArray[Any] | None = None) -> NDArray[np.int64]:
    """Draw `k` of `n` rows uniformly, without replacement: those with the smallest hash of (random_seed, row).

    Args:
        n: number of rows.
        k: how many to draw; all that are eligible if they are fewer.
        random_seed: of the hash.
        eligible: [n] bool or uint8; rows with 0 are passed over.

    Returns:
        int64 row numbers, ascending.
    """
    return _native.sample_rows(n, k, _checked(random_seed), None if eligible is None else np.asarray(eligible))


def label_counts(labels: str | Path) -> NDArray[np.int64]:
    """Return how many rows each label has in a directory of label files: [largest label + 1], read one file at a time.

    Raises:
        StoreError: naming the label file that is missing or damaged.
    """
    return _native.label_counts(labels).astype(np.int64)


def row_hash(random_seed: int, rows: NDArray[Any]) -> NDArray[np.uint64]:
    """Return XXH3-64 with that seed of each row number, as 8 little-endian bytes."""
    return _native.row_hash(_checked(random_seed), np.ascontiguousarray(rows, dtype=np.int64))


def _checked(random_seed: int) -> int:
    if not 0 <= random_seed < 2**64:
        raise ValueError(f"random_seed={random_seed}: expected a whole number from 0 to 2^64 - 1")
    return int(random_seed)
