"""Nearest rows of each seed, by optimal transport: KNN-uniform and TSDS (arXiv 2410.11303)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.errors import NeedsError
from gdig.nouns import counted
from gdig.resampling import resample
from gdig.selection.centred import CentredFeatures, distances, kernel_densities
from gdig.selection.method import FinishedSweep, OrderedRows, Picked, rows_within
from gdig.selection.turns import highest, take_turns

ALPHA, SCALE = 0.6, 5.0
"""Weight of the transport cost against diversity, and the cost that counts as 1 (the paper's alpha and C)."""
RADIUS = 0.75
"""Radius of the kernel of the densities."""
MOST_NEIGHBOURS = 5_000
"""Neighbours of a seed that can have mass."""
MOST_PAIRED = 1 << 15
"""Rows whose densities are measured; all pairs of them are compared."""


def knn(sweep: FinishedSweep, limit: Limit, random_seed: int, options: Config) -> Picked:
    """Draw rows by mass. Each seed spreads the same mass over its nearest rows (`transport_masses`).

    The draw is without replacement, by hashes of (random_seed, row). When the rows with mass are used up, seeds take
    turns for the nearest of the others. A smaller budget's rows are the first of a larger one's.
    """
    if options.knn_features == "sketch" and not options.gradients:
        raise no_sketches()
    features = CentredFeatures(sweep, options.knn_features)
    masses, counts = seed_masses(sweep, features, options.knn_density == "kernel")
    labels = np.where(masses > 0, 0, -1).astype(np.int32)
    n_massive = int((masses > 0).sum())

    def take(n: int) -> OrderedRows:
        drawn = resample(labels, n, random_seed, weights=masses)
        if len(drawn) == n:
            return OrderedRows(drawn)
        most = min(sweep.survey.valid, n + n_massive)
        others = take_turns(sweep, features.cosines, most, options.threads or 0, len(features.seeds)).rows
        return OrderedRows(np.concatenate([drawn, others[masses[others] == 0][: n - len(drawn)]]))

    result, n = rows_within(take, sweep, limit)
    rows = result.rows[:n]
    notes = [
        f"{counted(n_massive, 'row shares', 'rows share')} the seeds' mass; a seed spreads over {counts.min()} to "
        f"{counted(int(counts.max()), 'row')} "
        f"({int(np.median(counts))} in the middle)"
    ]
    if others := int((masses[rows] == 0).sum()):
        notes.append(f"{counted(others, 'row')} beyond them: the nearest of the others; seeds took turns")
    return Picked(rows, {"mass": masses[rows]}, tuple(notes))


def no_sketches() -> NeedsError:
    """Return the error of knn_features=sketch in a run without gradients."""
    return NeedsError("knn_features='sketch': expected hidden, because this run has no gradients")


def seed_masses(
    sweep: FinishedSweep, features: CentredFeatures, by_density: bool
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the mass of each row, float64 [N] of sum 1, and over how many rows each seed spreads, int64 [S].

    Densities are measured among the nearest rows of all seeds: a near copy of one of them is there too.
    """
    masses = np.zeros(sweep.survey.rows)
    n_seeds = len(features.seeds)
    if not sweep.survey.valid:
        return masses, np.zeros(n_seeds, np.int64)
    most = max(2, MOST_PAIRED // n_seeds) if by_density else MOST_NEIGHBOURS
    nearest, cosines = highest(sweep, features.cosines, n_seeds, min(most, MOST_NEIGHBOURS, sweep.survey.valid))
    densities = np.ones(nearest.shape)
    if by_density:
        rows, place = np.unique(nearest, return_inverse=True)
        densities = kernel_densities(features.of_rows(rows), RADIUS)[place.reshape(nearest.shape)]
    by_seed = transport_masses(distances(cosines), densities)
    # bincount adds one number after another.
    masses += np.bincount(nearest.ravel(), weights=by_seed.ravel() / n_seeds, minlength=len(masses))
    return masses, (by_seed > 0).sum(1)


def transport_masses(
    distance: NDArray[np.float64], density: NDArray[np.float64], alpha: float = ALPHA, scale: float = SCALE
) -> NDArray[np.float64]:
    """Spread a mass of 1 of each seed over its K nearest rows (section 3 of the paper).

    A row of density r takes at most u / r of a seed's mass, and the nearest rows take theirs first. The level u is the
    one of least alpha / scale * (mean transport cost) + (1 - alpha) * u. A low level spreads over rows far away. With
    1 / u as the variable that is piecewise linear, so the best level is where some seed's row is just full. Without
    such a level, each seed spreads over all K rows.

    Args:
        distance: float64 [S, K], ascending.
        density: float64 [S, K], above 0; 1 everywhere for KNN-uniform.
        alpha, scale: as `ALPHA` and `SCALE`.

    Returns:
        float64 [S, K]; each row has the sum 1.
    """
    share = 1 / density
    total = np.cumsum(share, axis=1)
    # What spreading to the next row costs a seed, once its first k rows are full at the level 1 / total.
    cost = distance[:, 1:] * total[:, :-1] - np.cumsum(distance * share, axis=1)[:, :-1]
    order = np.argsort(total[:, :-1], axis=None, kind="stable")
    costs = np.cumsum(np.diff(cost, axis=1, prepend=0).ravel()[order])
    dear = np.flatnonzero(alpha / scale * costs >= (1 - alpha) * len(distance))
    level = total[:, :-1].ravel()[order[dear[0]]] if len(dear) else np.inf
    most = np.minimum(level, total[:, -1:])
    return np.clip(1 - (total - share) / most, 0, share / most)
