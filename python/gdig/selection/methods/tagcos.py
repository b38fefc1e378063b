"""TAGCOS (arXiv 2407.15235): in each cluster, rows whose weighted sum comes nearest to the cluster's mean gradient."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gdig import _native
from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.errors import ConfigError
from gdig.selection.method import Picked, Swept, taken_within
from gdig.store.sketches import SketchStore

RIDGE = 1e-3
"""Added to the Gram matrix's diagonal, as a share of the mean squared length of the cluster's rows."""

TOLERANCE = 1e-4
"""Length of the residual, as a share of the mean gradient's, at which the pursuit ends."""


class Pursued(NamedTuple):
    """Rows of all clusters, in turns by the clusters' sizes; those of one cluster in the order taken.

    rows: int64 [n]. weights: float64 [n], at least 0; of its cluster's rows in the sum that stands for the mean.
    matched: bool [n], taken by the pursuit, and not as one of the nearest to the mean. clusters: how many give rows.
    ended_early: in how many of them the pursuit ended before the quota was filled. residual: mean over them of the
    length of (mean gradient - weighted sum), as a share of the mean gradient's.
    """

    rows: NDArray[np.int64]
    weights: NDArray[np.float64]
    matched: NDArray[np.bool_]
    clusters: int
    ended_early: int
    residual: float


def pursue(
    store: SketchStore,
    labels: str | Path,
    budget: int,
    random_seed: int,
    *,
    unit_normalize: bool = True,
    ridge: float = RIDGE,
    tolerance: float = TOLERANCE,
    n_threads: int = 0,
) -> Pursued:
    """Take rows from each cluster in proportion to its size, by orthogonal matching pursuit.

    In a cluster with mean gradient b: take the row with the largest product with the residual b - sum w_i g_i, ties by
    row; find the weights w >= 0 of least |b - sum w_i g_i|^2 + ridge |w|^2 over the rows taken; repeat. The pursuit
    ends when no product is positive or the residual is as good as 0; what is left of the quota are the rows nearest to
    b. Memory, for each thread: one cluster's rows as float32 (read anew in each step when they take more than 256 MB),
    and 4 bytes times the square of its weights above 0, which are 4,096 at most.

    Args:
        store: sketches, [N, dim].
        labels: directory of label files, of as many rows.
        budget: rows to take; all with a label if they are fewer.
        random_seed: of the order of clusters of one size.
        unit_normalize: scale each row to unit length first.
        ridge: as `RIDGE`; at 0 rows that depend on those taken end the pursuit.
        tolerance: as `TOLERANCE`.
        n_threads: 0 for all; the result is the same.

    Raises:
        StoreError: naming the shard or label file that is missing or damaged.
        GdigError: when there are not as many labels as rows.
    """
    found = _native.tagcos(
        store._native,
        labels,
        budget=budget,
        random_seed=random_seed,
        unit_normalize=unit_normalize,
        ridge=ridge,
        tolerance=tolerance,
        n_threads=n_threads,
    )
    return Pursued(*found)


def tagcos(swept: Swept, limit: Limit, random_seed: int, options: Config) -> Picked:
    """Rows that together stand for each cluster's mean gradient; the seeds have no say."""
    if swept.labels is None:
        raise ConfigError("method: tagcos takes rows from clusters, and there are none: run gdig cluster first")
    labels, normalize = swept.labels, options.unit_normalize
    threads = options.threads or 0

    def take(n: int) -> Pursued:
        return pursue(swept.store, labels, n, random_seed, unit_normalize=normalize, n_threads=threads)

    found, n = taken_within(take, swept, limit)
    matched = found.matched[:n]
    notes = [f"the weighted rows leave {found.residual:.2g} of the clusters' mean gradients, by length"]
    if nearest := int((~matched).sum()):
        notes.append(
            f"in {found.ended_early} of {found.clusters} clusters the pursuit ended before the quota was filled: "
            f"{nearest} of {n} rows are the nearest to their cluster's mean instead"
        )
    return Picked(found.rows[:n], {"weight": found.weights[:n], "pursued": matched}, tuple(notes))
