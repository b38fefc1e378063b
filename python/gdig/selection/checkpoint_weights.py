"""The weights of training checkpoints, and the cosines that they weigh."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gdig.errors import ConfigError, NeedsError

if TYPE_CHECKING:
    from gdig.selection.method import Checkpoint


def weights(rates: Sequence[float], asked: Sequence[float]) -> NDArray[np.float64]:
    """Return the weights of the checkpoints, float64, of sum 1: as asked for, or the learning rates.

    Raises:
        ConfigError: when there are not as many weights as checkpoints, or none is above 0.
    """
    if asked and len(asked) != len(rates):
        raise ConfigError(f"checkpoint_weights: expected {len(rates)}, one a checkpoint, got {len(asked)}")
    x = np.array(asked or rates, dtype=np.float64)
    if not (math.isfinite(x.sum()) and (x >= 0).all() and x.sum() > 0):
        raise ConfigError(
            f"checkpoint_weights: expected numbers >= 0, not all of them 0, got the checkpoints' learning rates "
            f"{', '.join(f'{rate:g}' for rate in x)}; give weights, one a checkpoint"
        )
    return x / x.sum()


def no_checkpoints(option: str) -> NeedsError:
    """Return the error of a choice by checkpoints where none is swept. `option`: method or relevance."""
    return NeedsError(
        f"{option}='less': expected checkpoints of a training run with the optimizer's state, got none; "
        "give their directories with --checkpoints"
    )


def weighted_cosines(
    checkpoints: Sequence[Checkpoint], shares: NDArray[np.float64], shard: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the weighted mean over the checkpoints of the cosines of a shard's rows with the seeds, float64 [n, S].

    Also returns which rows are valid at every checkpoint, bool [n].
    """
    stores = [checkpoint.store for checkpoint in checkpoints]
    mean = sum(share * store.tensor(shard, "cosine") for share, store in zip(shares, stores, strict=True))
    valid = np.all([store.tensor(shard, "valid") != 0 for store in stores], axis=0)
    return np.asarray(mean, np.float64), valid
