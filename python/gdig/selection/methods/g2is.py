"""G2IS (arXiv 2502.11062): walks over neighbouring gradients, one for each principal component of the seeds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gdig import _native
from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.errors import ConfigError
from gdig.nouns import counted
from gdig.selection.method import FinishedSweep, Picked
from gdig.selection.neighbours import NeighbourCache, column, nearest
from gdig.store.sketches import SketchStore

EXPLAINED = 0.5
"""Share of the sum of squares that the components explain together."""
RATIO = 0.8
"""Least share of the cosine between the walk's sum and the component that a step must leave."""


def components(features: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the principal components of the seeds' gradients at unit length, until they explain half of the squares.

    The gradients are not centred: their mean is what all seeds ask for, and without it only their differences are left.
    The decomposition leaves a component's sign open. The sign is that of the component's mean product with the seeds;
    where the product is 0, the largest entry is positive.

    Args:
        features: [S, dim]. A seed whose gradient is 0 is left out.

    Returns:
        Components [V, dim] of unit length, the largest first, and the share of the squares that each explains, [V].

    Raises:
        ConfigError: if a number is not finite, or every gradient is 0.
    """
    x = np.asarray(features, np.float64)
    if not np.isfinite(x).all():
        raise ConfigError(f"seeds: the gradient sketch of seed {np.argmin(np.isfinite(x).all(1))} is not finite")
    norms = np.linalg.norm(x, axis=1)
    if not norms.any():
        raise ConfigError("seeds: expected a gradient that is not 0, got sketches of 0 from every seed")
    x = x[norms > 0] / norms[norms > 0, None]
    _, singular, right = np.linalg.svd(x, full_matrices=False)
    explained = singular**2 / (singular**2).sum()
    # Rounding must not add a component.
    count = int(np.searchsorted(np.cumsum(explained), EXPLAINED * (1 - 1e-12))) + 1
    right = right[:count]
    mean = right @ x.mean(0)
    largest = right[np.arange(count), np.abs(right).argmax(1)]
    # A mean product as small as a rounding error is 0.
    sign = np.where(np.abs(mean) > 1e-12, mean, largest)
    return np.ascontiguousarray(right * np.sign(sign)[:, None]), explained[:count]


def asked(options: Config) -> int:
    """Return how many neighbours of each row a walk may go to."""
    return options.n_neighbours


def g2is(sweep: FinishedSweep, limit: Limit, random_seed: int, options: Config) -> Picked:
    """Pick rows along the principal components of the seeds' gradients, in the order in which the walks reach them.

    A component's share of the budget is in proportion to what it explains. A walk starts at the free row with the
    highest cosine to its component. The next row is the nearest free neighbour of the last row that satisfies two
    rules: its cosine to each row of the walk is at least 0, and the walk's sum keeps 0.8 of its cosine to the
    component. Without such a neighbour, it is the free row nearest to the component that satisfies them. A walk that
    ends leaves its share to the others. With the option `checkpoints`, a row's gradient is its Adam direction at the
    last checkpoint.
    """
    store, features, cache, notes = _features(sweep, bool(options.checkpoints))
    if features.shape[1] != store.dim:
        raise ConfigError(f"seeds: expected sketches of {store.dim} columns as the pool's, got {features.shape[1]}")
    directions, explained = components(features)
    neighbours = nearest(store, asked(options), int(column(store, "valid").sum()), random_seed, options, cache)
    by_tokens = limit.unit == "tokens"
    rows, component, by_neighbour, cosine, ended = _native.g2is(
        store._native,
        neighbours.rows,
        neighbours.cosines,
        directions=directions,
        weights=explained,
        ratio=RATIO,
        limit=limit,
        tokens=column(store, "tokens").astype(np.uint32) if by_tokens else None,
        n_threads=options.threads or 0,
    )
    counts = np.bincount(component, minlength=len(directions))
    summary = (
        f"{len(directions)} components explain {explained.sum():.0%} of the seeds' gradients; "
        f"rows along each: {', '.join(map(str, counts))}"
    )
    shortfall = None
    if all(ended) or (not by_tokens and len(rows) < limit.amount):
        shortfall = (
            f"only {counted(len(rows), 'row')} selected, less than the budget: no other row agrees with the rows of "
            "a walk and stays near its component"
        )
    reasons = {"component": component, "component_cosine": cosine, "from_neighbour": by_neighbour.astype(bool)}
    return Picked(rows, reasons, (summary, *notes, *neighbours.notes), shortfall)


def _features(
    sweep: FinishedSweep, adam: bool
) -> tuple[SketchStore, NDArray[np.floating], NeighbourCache, tuple[str, ...]]:
    """Return the pool's train features, the seeds' validation features, the cache of neighbours, and notes.

    As published (`adam`), a row has its Adam direction and a seed its plain gradient, here at the last checkpoint.
    Otherwise both are plain gradients of the model.
    """
    if not (adam and sweep.checkpoints):
        return sweep.store, sweep.seed_features(), sweep.neighbour_cache, ()
    last = sweep.checkpoints[-1]
    eligible = last.store.masked(column(sweep.store, "valid") != 0)  # of the rows that the sweep can use
    note = f"gradients of the pool are Adam's directions at {last.path}"
    return eligible, last.seed_features(), NeighbourCache(), (note,)
