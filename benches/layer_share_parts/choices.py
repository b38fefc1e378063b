"""The choices of layers that are compared, in the words of the option `layers`."""

from __future__ import annotations

import numpy as np

from gdig.config.config import Config
from gdig.model.causal_model import Model, wrap_model

WHOLE = "all"
CHOICES = (
    WHOLE, "mlp", "attention",
    "upper:0.5", "mlp:upper:0.5", "attention:upper:0.5",
    "upper:0.25", "mlp:upper:0.25", "attention:upper:0.25",
    "upper:0.125", "mlp:upper:0.125", "attention:upper:0.125",
)  # fmt: skip


def chosen(text: str, model: Model, config: Config) -> np.ndarray:
    """Which of a model's layers a value of `layers` chooses: bool [layers].

    Args:
        text: the value.
        model: with the layers of all blocks.
        config: the options that it was loaded with.
    """
    names = {layer.name for layer in wrap_model(model.module, config.with_options(layers=text)).layers}
    return np.array([layer.name in names for layer in model.layers])
