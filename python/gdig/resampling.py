"""Even, seeded draws from clusters, and seeded samples of rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gdig import _native

__all__ = ["resample", "row_hash", "sample_rows"]


def resample(
    labels: NDArray[Any],
    budget: int,
    seed: int,
    weights: NDArray[Any] | None = None,
    *,
    priority: NDArray[Any] | None = None,
    costs: NDArray[Any] | None = None,
) -> NDArray[np.int64]:
    """Draw `budget` rows evenly from the clusters, without replacement.

    Every cluster gets the same quota; one that runs short passes its rest on. That is a round-robin: in each round
    every cluster, in a hashed order of its own, gives its next row. So the answer is a prefix of one fixed order: a
    larger budget begins with the rows of a smaller one. It does not depend on threads or on how the rows are stored.

    Args:
        labels: [N] uint32, int32 or int64: the cluster of each row, 0 to 2^28 - 1; -1 or 4294967295 for a row that is
            not eligible.
        budget: how many rows, or with `costs` how much they may cost together.
        seed: of the hashes.
        weights: [N] float32 or float64, >= 0: inside a cluster rows are drawn in proportion to them (Efraimidis and
            Spirakis, 2006); weight 0 is never drawn. Without weights and priority: uniformly.
        priority: [N] float32 or float64: inside a cluster the highest come first, equal ones by row number.
        costs: [N] int32 or int64, >= 0, such as tokens. The draw ends before the first row that would exceed the
            budget; cheaper rows after it are not tried, so that the answer stays a prefix.

    Returns:
        int64 row numbers in the order drawn; fewer than the budget if fewer are eligible.

    Raises:
        GdigError: naming the row with a negative or infinite weight, NaN, negative cost or impossible label; or an
            array of another length than `labels`.
        ValueError: if both weights and priority are given, the budget is negative, or an array is not C-contiguous
            or has another dtype.
    """
    if weights is not None and priority is not None:
        raise ValueError("weights and priority: expected at most one of them")
    if budget < 0:
        raise ValueError(f"budget: expected at least 0, got {budget}")
    arrays = (None if array is None else np.asarray(array) for array in (weights, priority, costs))
    return _native.resample(np.asarray(labels), budget, _seed(seed), *arrays)


def sample_rows(n: int, k: int, seed: int, eligible: NDArray[Any] | None = None) -> NDArray[np.int64]:
    """Draw `k` of `n` rows uniformly, without replacement: those with the smallest hash of (seed, row).

    Args:
        n: number of rows.
        k: how many to draw; all that are eligible if they are fewer.
        seed: of the hash.
        eligible: [n] bool or uint8; rows with 0 are passed over.

    Returns:
        int64 row numbers, ascending.
    """
    return _native.sample_rows(n, k, _seed(seed), None if eligible is None else np.asarray(eligible))


def row_hash(seed: int, rows: NDArray[Any]) -> NDArray[np.uint64]:
    """Return XXH3-64 with that seed of each row number, as 8 little-endian bytes."""
    return _native.row_hash(_seed(seed), np.ascontiguousarray(rows, dtype=np.int64))


def _seed(seed: int) -> int:
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed: expected 0 to 2^64 - 1, got {seed}")
    return int(seed)
