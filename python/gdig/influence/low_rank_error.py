"""How far the seeds' factored form is from exact: scores by both of a few seeds with a few rows of the pool."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from gdig.data.tokens import Example
from gdig.influence.curvature import with_ones
from gdig.model.batches import make_batches
from gdig.model.capture import GradientPass

Stash = list[list[tuple[torch.Tensor, torch.Tensor]]]
"""For each probe row and layer: a [T, J], d [T, O]."""


def probe_gradients(gradients: GradientPass, probe: Sequence[Example]) -> Stash:
    """Pass the probe's rows and keep what the layers saw."""
    stash: Stash = []
    layers = gradients.model.layers
    for example in probe:
        row: list = [None] * len(layers)

        def sink(index: int, a: torch.Tensor, d: torch.Tensor, mask: torch.Tensor, row: list = row) -> None:
            dtype = torch.promote_types(a.dtype, torch.float32)
            row[index] = (with_ones(a.to(dtype), layers[index].width), d.to(dtype).clone())

        (batch,) = make_batches([example], 1, window=len(example.input_ids))
        gradients.run(batch, sink)
        stash.append(row)
    return stash


def both_scores(u: torch.Tensor, v: torch.Tensor, w: torch.Tensor, stash: Stash, index: int) -> np.ndarray:
    """<G_e, H^-1 G_s> of one seed and layer with each probe row, of the factored form and exact: float64 [2, rows].

    Seed by seed, so that a figure does not depend on which other seeds are at hand.
    """
    factored = [float(((row[index][1] @ u) * (row[index][0] @ v)).double().sum()) for row in stash]
    exact = [float(((row[index][1] @ w) * row[index][0]).double().sum()) for row in stash]
    return np.array([factored, exact])


def compare(scores: np.ndarray) -> tuple[float, float]:
    """Relative error and correlation of the factored scores over (compared seed, probe row): scores [S, 2, rows]."""
    x, y = scores[:, 0].ravel(), scores[:, 1].ravel()
    if not len(x):
        return float("nan"), float("nan")
    size = float(np.linalg.norm(y))
    error = float(np.linalg.norm(x - y)) / size if size else 0.0
    correlation = float(np.corrcoef(x, y)[0, 1]) if x.std() and y.std() else float("nan")
    return error, correlation
