"""The error of the seeds' low-rank form: factored and exact scores of a few seeds with a few rows of the pool."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from gdig.data.tokens import Example
from gdig.influence.curvature import with_ones
from gdig.model.batches import make_batches
from gdig.model.capture import GradientPass

LayerTokens = list[list[tuple[torch.Tensor, torch.Tensor]]]
"""For each probe row and layer: the inputs a [T, J] and the output gradients d [T, O]."""


def probe_gradients(gradients: GradientPass, probe: Sequence[Example]) -> LayerTokens:
    """Pass the probe rows, and return the inputs and output gradients of their layers."""
    tokens: LayerTokens = []
    layers = gradients.model.layers
    for example in probe:
        row: list = [None] * len(layers)

        def sink(index: int, a: torch.Tensor, d: torch.Tensor, mask: torch.Tensor, row: list = row) -> None:
            dtype = torch.promote_types(a.dtype, torch.float32)
            row[index] = (with_ones(a.to(dtype), layers[index].width), d.to(dtype).clone())

        (batch,) = make_batches([example], 1, window=len(example.input_ids))
        gradients.run(batch, sink)
        tokens.append(row)
    return tokens


def both_scores(u: torch.Tensor, v: torch.Tensor, w: torch.Tensor, tokens: LayerTokens, index: int) -> np.ndarray:
    """Compute <G_e, H^-1 G_s> of one seed with each probe row, in one layer.

    The function takes one seed, so that a number is independent of the other seeds of the rank.

    Args:
        u: [O, r], of the seed's low-rank form.
        v: [J, r], of the seed's low-rank form.
        w: [O, J], the exact H^-1 G_s.
        tokens: the probe rows (`probe_gradients`).
        index: the number of the layer.

    Returns:
        float64 [2, rows]: the scores of the low-rank form, and the exact scores.
    """
    factored = [float(((row[index][1] @ u) * (row[index][0] @ v)).double().sum()) for row in tokens]
    exact = [float(((row[index][1] @ w) * row[index][0]).double().sum()) for row in tokens]
    return np.array([factored, exact])


def compare(scores: np.ndarray) -> tuple[float, float]:
    """Compare the factored scores with the exact ones, over all pairs of a seed and a probe row.

    Args:
        scores: float64 [S, 2, rows], of `both_scores`.

    Returns:
        The relative error, and the correlation. Without scores, both are NaN.
    """
    factored, exact = scores[:, 0].ravel(), scores[:, 1].ravel()
    if not len(factored):
        return float("nan"), float("nan")
    norm = float(np.linalg.norm(exact))
    error = float(np.linalg.norm(factored - exact)) / norm if norm else 0.0
    correlation = float(np.corrcoef(factored, exact)[0, 1]) if factored.std() and exact.std() else float("nan")
    return error, correlation
