"""G2IS (arXiv 2502.11062): walks over neighbouring gradients, one for each principal component of the seeds'."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gdig import _native
from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.errors import ConfigError
from gdig.selection.method import Picked, Swept
from gdig.selection.neighbours import Kept, column, nearest
from gdig.store.sketches import SketchStore

EXPLAINED = 0.5
"""Share of the variance that the components have to explain together."""
RATIO = 0.8
"""What a step may leave of the cosine between the sum of the chosen and the component."""


def components(features: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Principal components of the seeds' gradients at unit length, from the largest to the first with which half of the
    sum of squares is explained.

    They are not centred: the mean gradient of the seeds is what all of them ask for, and to subtract it would leave
    only how they differ. A component's sign, which the decomposition leaves open, is that of its mean product with the
    seeds, so that it points where they do; where that is 0, its largest entry is positive.

    Args:
        features: [S, dim]; a seed whose gradient is 0 does not count.

    Returns:
        Components [V, dim] of unit length, and the share of the sum of squares that each explains, [V].

    Raises:
        ConfigError: if a number is not finite, or all are 0.
    """
    x = np.asarray(features, np.float64)
    if not np.isfinite(x).all():
        raise ConfigError(f"seeds: the gradient sketch of seed {np.argmin(np.isfinite(x).all(1))} is not finite")
    norms = np.linalg.norm(x, axis=1)
    if not norms.any():
        raise ConfigError("seeds: every gradient sketch is 0, so there is no direction to walk along")
    x = x[norms > 0] / norms[norms > 0, None]
    _, singular, right = np.linalg.svd(x, full_matrices=False)
    explained = singular**2 / (singular**2).sum()
    # Rounding must not ask for one component more.
    count = int(np.searchsorted(np.cumsum(explained), EXPLAINED * (1 - 1e-12))) + 1
    right = right[:count]
    mean = right @ x.mean(0)
    largest = right[np.arange(count), np.abs(right).argmax(1)]
    # A mean product below what rounding makes of 0 is 0.
    sign = np.where(np.abs(mean) > 1e-12, mean, largest)
    return np.ascontiguousarray(right * np.sign(sign)[:, None]), explained[:count]


def asked(options: Config) -> int:
    """How many neighbours of each row a walk may go to."""
    return options.n_neighbours


def g2is(swept: Swept, limit: Limit, random_seed: int, options: Config) -> Picked:
    """Rows along the principal components of the seeds' gradients, in the order in which the walks reached them.

    A component's share of the budget is in proportion to what it explains. A walk starts at the free row with the
    highest cosine to its component; the next row is the nearest neighbour of the last one that contradicts no row of
    this walk (cosine below 0) and leaves at least 0.8 of the cosine between their sum and the component; if there is
    none, the free row nearest to the component under the same rules. What a walk that has ended leaves goes to the
    others. With the option `checkpoints` a row's gradient is Adam's direction at the last of them.
    """
    store, features, kept, notes = _features(swept, bool(options.checkpoints))
    if features.shape[1] != store.dim:
        raise ConfigError(f"seeds: their sketches have {features.shape[1]} columns, the pool's have {store.dim}")
    directions, explained = components(features)
    near = nearest(store, asked(options), int(column(store, "valid").sum()), random_seed, options, kept)
    by_tokens = limit.unit == "tokens"
    rows, component, by_neighbour, cosine, ended = _native.g2is(
        store._native,
        near.rows,
        near.cosines,
        directions=directions,
        weights=explained,
        ratio=RATIO,
        limit=limit,
        tokens=column(store, "tokens").astype(np.uint32) if by_tokens else None,
        n_threads=options.threads or 0,
    )
    counts = np.bincount(component, minlength=len(directions))
    walked = (
        f"{len(directions)} components explain {explained.sum():.0%} of the seeds' gradients; "
        f"rows along each: {', '.join(map(str, counts))}"
    )
    shortfall = None
    if all(ended) or (not by_tokens and len(rows) < limit.amount):
        shortfall = (
            f"only {len(rows)} rows chosen, less than the budget: no further row agrees with those of a walk and keeps "
            "to its component"
        )
    reasons = {"component": component, "component_cosine": cosine, "from_neighbour": by_neighbour.astype(bool)}
    return Picked(rows, reasons, (walked, *notes, *near.notes), shortfall)


def _features(swept: Swept, adam: bool) -> tuple[SketchStore, NDArray[np.floating], Kept, tuple[str, ...]]:
    """Train features of the pool, validation features of the seeds; searches made of the former before; and notes.

    As published (`adam`) they are Adam's direction for a row and the plain gradient of a seed, here at the last
    checkpoint; else both are plain gradients of the model.
    """
    plain = (swept.store, swept.seed_features(), swept.kept)
    if not (adam and swept.checkpoints):
        return *plain, ()
    last = swept.checkpoints[-1]
    if np.any(column(last.store, "valid") > column(swept.store, "valid")):
        return *plain, (f"gradients are the model's: rows that it cannot use are valid at {last.path}",)
    return last.store, last.seed_features(), Kept(), (f"gradients of the pool are Adam's directions at {last.path}",)
