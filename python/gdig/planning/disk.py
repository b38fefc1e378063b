"""The disk that a run will take, from shapes."""

from __future__ import annotations

import torch

from gdig.config.config import Config
from gdig.model.causal_model import Model

_SKETCH_BYTES = {"float16": 2, "bfloat16": 2, "int8": 1, "float32": 4}
_OTHER_BYTES = 4 + 4 + 4 + 1 + 8
"""Of a row: loss, tokens, cut, valid, hash."""
_LABEL_BYTES = 4 + 4
"""Of a row: label and distance."""


def disk_bytes(model: Model, config: Config, rows: int, n_seeds: int, seed_columns: float) -> dict[str, int]:
    """Return the bytes of a whole run by stage: fit, sweep, cluster. The selection comes on top.

    Args:
        model: the model with its layers.
        config: inversion, projection_dim, sketch_dtype, checkpoints.
        rows: rows of the pool.
        n_seeds: the number of seeds.
        seed_columns: columns of all seeds over all layers.
    """
    item = torch.promote_types(model.dtype, torch.float32).itemsize
    fit = 0
    if config.inversion != "identity":
        for layer in model.layers:
            j, o = layer.width, layer.out_features
            squares = o * j if config.inversion in ("ekfac", "cg") else 0
            fit += (j * j + o * o + squares) * item + (j + o) * 8
    sides = sum(layer.width + layer.out_features for layer in model.layers) / len(model.layers)
    fit += int(seed_columns * sides * item)
    sketch = config.projection_dim * _SKETCH_BYTES[config.sketch_dtype] + (4 if config.sketch_dtype == "int8" else 0)
    a_pass = rows * (sketch + 4 * n_seeds + _OTHER_BYTES)
    return {"fit": fit, "sweep": a_pass * (1 + len(config.checkpoints)), "cluster": rows * _LABEL_BYTES}
