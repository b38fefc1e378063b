"""GIST (arXiv 2602.18584): rows whose gradients point along a task's in the space that the seeds span."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gdig import _native
from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.errors import ConfigError
from gdig.selection.best import highest
from gdig.selection.method import FinishedSweep, OrderedRows, Picked, rows_within

EXPLAINED = 0.95
"""Share of the seeds' sum of squares that the components explain together."""


def seed_space(
    products: NDArray[np.floating], of_seed: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the map from influence to the seeds' principal components, and each task's direction there.

    The seeds' gradients G [S, D] have the products K = G H^-1 G^T = U diag(s^2) U^T. A row with influence x = G H^-1 g
    has the coordinates x U / s. They are those of H^-1/2 g in the basis of the right singular vectors of G H^-1/2. A
    seed's are its row of U diag(s). Components are taken from the largest until `EXPLAINED` of the sum of s^2 is
    explained.

    Args:
        products: K, [S, S]. What the seeds' low rank leaves unsymmetric is averaged.
        of_seed: int64 [S], the task of each seed.

    Returns:
        The map U / s, [S, k], and the mean of each task's seeds at unit length, [tasks, k].

    Raises:
        ConfigError: if a number is not finite, or no product is positive.
    """
    k = np.asarray(products, np.float64)
    if not np.isfinite(k).all():
        raise ConfigError(
            f"seeds: the influence of seed {np.argmin(np.isfinite(k).all(1))} on the others is not finite"
        )
    values, vectors = np.linalg.eigh((k + k.T) / 2)
    values, vectors = values[::-1], vectors[:, ::-1]
    # What is within the rounding of the largest is 0; a negative value comes from the low rank alone.
    significant = values > values[0] * len(k) * np.finfo(np.float32).eps
    if not significant.any() or values[0] <= 0:
        raise ConfigError("seeds: expected a gradient that is not 0, got only gradients of 0")
    values = values[significant]
    count = int(np.searchsorted(np.cumsum(values), EXPLAINED * (1 - 1e-12) * values.sum())) + 1
    s, u = np.sqrt(values[:count]), vectors[:, significant][:, :count]
    means = np.stack([(u * s)[of_seed == task].mean(0) for task in range(int(of_seed.max()) + 1)])
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    return np.ascontiguousarray(u / s), np.ascontiguousarray(means / np.where(lengths > 0, lengths, 1))


def gist(sweep: FinishedSweep, limit: Limit, random_seed: int, options: Config) -> Picked:
    """Pick the rows with the largest cosine to a task's direction, ties by row. Without tasks, all seeds are one."""
    of_seed = sweep.tasks.of_seed if sweep.tasks else np.zeros(sweep.survey.n_seeds, np.int64)
    projection, directions = seed_space(sweep.seed_influence(), of_seed)
    threads = options.threads or 0
    cosine, task = _native.gist_scores(sweep.store._native, projection, directions, n_threads=threads)
    valid = sweep.survey.valid
    result, n = rows_within(lambda n: OrderedRows(highest(cosine, min(n, valid))), sweep, limit)
    rows = result.rows[:n]
    reasons: dict[str, np.ndarray] = {"cosine": cosine[rows]}
    if sweep.tasks:
        reasons["for_task"] = np.array(sweep.tasks.names)[task[rows]]
    note = f"{projection.shape[1]} components explain {EXPLAINED:.0%} of the gradients of {len(of_seed)} seeds"
    return Picked(rows, reasons, (note,))
