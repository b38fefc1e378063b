"""TAGCOS (arXiv 2407.15235): rows of each cluster whose weighted sum is near the cluster's mean gradient."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gdig import _native
from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.errors import NeedsError
from gdig.selection.method import FinishedSweep, Picked, rows_within
from gdig.store.sketches import SketchStore

RIDGE = 1e-3
"""Ridge on the diagonal of the Gram matrix, as a share of the mean squared length of the cluster's rows."""

TOLERANCE = 1e-4
"""Length of the residual at which the pursuit ends, as a share of the mean gradient's length."""


class TagcosRows(NamedTuple):
    """Rows of all clusters, in turns by the clusters' sizes; rows of one cluster in the order of the pursuit.

    rows: int64 [n]. weights: float64 [n], at least 0: weight of each row in the sum that matches its cluster's mean.
    matched: bool [n], whether the pursuit took the row; the others are the nearest to the mean. clusters: how many give
    rows. ended_early: clusters whose pursuit ended before the quota was filled. residual: mean over the clusters of
    |mean gradient - weighted sum| / |mean gradient|.
    """

    rows: NDArray[np.int64]
    weights: NDArray[np.float64]
    matched: NDArray[np.bool_]
    clusters: int
    ended_early: int
    residual: float


def tagcos_rows(
    store: SketchStore,
    labels: str | Path,
    budget: int,
    random_seed: int,
    *,
    unit_normalize: bool = True,
    ridge: float = RIDGE,
    tolerance: float = TOLERANCE,
    n_threads: int = 0,
) -> TagcosRows:
    """Take rows from each cluster in proportion to its size, by orthogonal matching pursuit.

    In a cluster with mean gradient b, the pursuit repeats two steps. It takes the row with the largest product with the
    residual b - sum w_i g_i, ties by row. Then it finds the weights w >= 0 of least |b - sum w_i g_i|^2 + ridge |w|^2
    over the rows taken. It ends when no product is positive or the residual is below `tolerance`. The rest of the quota
    are the rows nearest to b.

    A thread holds one cluster's rows as float32; above 256 MB it reads them again in each step. It also holds 4 bytes
    times the square of the positive weights, of which there are at most 4,096.

    Args:
        store: sketches, [N, dim].
        labels: directory of label files, for as many rows.
        budget: rows to take; all rows with a label if they are fewer.
        random_seed: of the order of clusters of one size.
        unit_normalize: scale each row to unit length first.
        ridge: as `RIDGE`. At 0, a row that depends linearly on those taken ends the pursuit.
        tolerance: as `TOLERANCE`.
        n_threads: 0 for all; the result is the same.

    Raises:
        StoreError: naming the shard or label file that is missing or damaged.
        GdigError: when the labels are not as many as the rows.
    """
    result = _native.tagcos(
        store._native,
        labels,
        budget=budget,
        random_seed=random_seed,
        unit_normalize=unit_normalize,
        ridge=ridge,
        tolerance=tolerance,
        n_threads=n_threads,
    )
    return TagcosRows(*result)


def tagcos(sweep: FinishedSweep, limit: Limit, random_seed: int, options: Config) -> Picked:
    """Pick rows that together match each cluster's mean gradient. The seeds have no vote."""
    if sweep.labels is None:
        raise NeedsError("method='tagcos': expected clusters, got none; run gdig cluster first")
    labels, normalize = sweep.labels, options.unit_normalize
    threads = options.threads or 0

    def take(n: int) -> TagcosRows:
        return tagcos_rows(sweep.store, labels, n, random_seed, unit_normalize=normalize, n_threads=threads)

    result, n = rows_within(take, sweep, limit)
    matched = result.matched[:n]
    notes = [f"the weighted rows leave {result.residual:.2g} of the length of the clusters' mean gradients"]
    if n_nearest := int((~matched).sum()):
        notes.append(
            f"the pursuit ended before the quota was filled in {result.ended_early} of {result.clusters} clusters: "
            f"{n_nearest} of {n} rows are the nearest to their cluster's mean instead"
        )
    return Picked(result.rows[:n], {"weight": result.weights[:n], "matched": matched}, tuple(notes))
