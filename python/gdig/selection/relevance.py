"""The relevance of rows to seeds, by name: the matrix whose columns a method reads in place of the influence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gdig.config.config import Config
from gdig.errors import NeedsError
from gdig.selection.checkpoint_weights import no_checkpoints, weighted_cosines, weights
from gdig.store.sketches import SketchStore

if TYPE_CHECKING:
    from gdig.selection.method import FinishedSweep

Relevance = Callable[[int], NDArray[np.float32]]
"""The number of a shard -> the relevance of its rows to each seed, float32 [n, S]; any numbers for invalid rows."""


def sketches_are_of_the_metric(options: Mapping[str, Any]) -> bool:
    """Whether the products of sketches stand for the influence: in Fisher space, or raw where H is the identity."""
    return bool(options["sketch_space"] != "raw" or options["inversion"] == "identity")


def no_metric() -> NeedsError:
    """Return the error of relevance=cosine where the sketches are of another metric."""
    return NeedsError(
        "relevance='cosine': expected sketches in the metric of the influence, got raw ones of another metric; "
        "sweep with --sketch-space fisher"
    )


def influence(sweep: FinishedSweep, options: Config) -> None:
    """Return None: the influence is read in place."""


def cosine(sweep: FinishedSweep, options: Config) -> Relevance:
    """Return the influence divided by the lengths of the two gradients in the metric of H^-1.

    The length of a row's gradient is estimated by its sketch; the length of a seed's is exact.

    Raises:
        ConfigError: when the sketches are not of this metric.
    """
    if sweep.metric_scale is None:
        raise no_metric()
    scale = sweep.metric_scale
    own = np.sqrt(np.maximum(np.diagonal(sweep.seed_influence()).astype(np.float64), 0))

    def cosines(shard: int) -> NDArray[np.float32]:
        product = sketch_lengths(sweep.store, shard)[:, None] / scale * own
        x = sweep.store.tensor(shard, "influence") / np.where(product > 0, product, np.inf)
        return x.astype(np.float32)

    return cosines


def sketch_lengths(store: SketchStore, shard: int) -> NDArray[np.float64]:
    """Return the lengths of the sketches of a shard's rows, float64 [n]."""
    return np.asarray(np.sqrt(np.square(store.rows_float32(shard).astype(np.float64)).sum(1)))


def less(sweep: FinishedSweep, options: Config) -> Relevance:
    """Return the weighted mean over the checkpoints of the cosine of Adam's direction with each seed's gradient.

    A row that is invalid at a checkpoint has the relevance -2, below every cosine.

    Raises:
        ConfigError: when no checkpoint was swept, or the number of weights is not that of the checkpoints.
    """
    if not sweep.checkpoints:
        raise no_checkpoints("relevance")
    shares = weights([checkpoint.learning_rate for checkpoint in sweep.checkpoints], options.checkpoint_weights)

    def cosines(shard: int) -> NDArray[np.float32]:
        mean, valid = weighted_cosines(sweep.checkpoints, shares, shard)
        return np.where(valid[:, None], mean, -2.0).astype(np.float32)

    return cosines


RELEVANCE: dict[str, Callable[[FinishedSweep, Config], Relevance | None]] = {
    "influence": influence,
    "cosine": cosine,
    "less": less,
}
"""By the name that the option `relevance` knows them by."""
