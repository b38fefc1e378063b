"""The weights of training checkpoints."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gdig.errors import ConfigError


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
