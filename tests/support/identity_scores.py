"""Scores of two rows for two seeds without curvature, by the passes of gdig and by plain autograd at the weights."""

from __future__ import annotations

import numpy as np
import torch

from gdig.config.config import Config
from gdig.data.tokens import Example
from gdig.influence.precondition_seeds import precondition_seeds
from gdig.model.causal_model import Model
from gdig.passes.influence_pass import make_influence_pass
from gdig.progress import Progress
from tests.support.tiny_models import make_examples

OPTIONS = {
    "device": "cpu", "inversion": "identity", "seed_energy": 1.0, "seed_rank": 1000, "projection_dim": 8,
    "projection_side": 2,
}  # fmt: skip
_EXAMPLES = make_examples(4, 5, 4, 12)
SEEDS, ROWS = _EXAMPLES[:2], _EXAMPLES[2:]
_ROUNDING = 2.0**-24
_DEEP = 64
"""Operations on the longest way from a weight to the loss, whose roundings add up."""


def compare_with_autograd(model: Model, worst_slope: float = 0.0) -> None:
    """Compare scores and losses. Many families compute norms and more in float32 whatever their dtype.

    A score's error is bounded by the error of one gradient times the length of the other. `worst_slope` is the largest
    factor by which an operation of the family makes a rounding larger.
    """
    scores, losses = scores_of(model)
    gradients = [plain_gradient(model, example) for example in [*SEEDS, *ROWS]]
    expected = np.array([[float(row @ seed) for _, seed in gradients[:2]] for _, row in gradients[2:]])
    lengths = np.array([float(g.norm()) for _, g in gradients])
    tolerance = (_DEEP + worst_slope) * _ROUNDING
    assert np.all(np.abs(scores - expected) <= 2 * tolerance * np.outer(lengths[2:], lengths[:2]))
    assert np.all(lengths > 0) and np.all(np.abs(losses - [loss for loss, _ in gradients[2:]]) <= tolerance * losses)


def scores_of(model: Model) -> tuple[np.ndarray, np.ndarray]:
    """Influence [2 rows, 2 seeds] and the rows' losses, by the passes of a fit and a sweep."""
    config, quiet = Config.build(OPTIONS), Progress(quiet=True)
    factors, _ = precondition_seeds(model, [None] * len(model.layers), SEEDS, [], config, quiet)
    rows = make_influence_pass(model, factors, config, quiet).compute(ROWS)
    return rows.numbers.astype(np.float64), rows.loss.astype(np.float64)


def plain_gradient(model: Model, example: Example) -> tuple[float, torch.Tensor]:
    """The loss, and its gradient at the weights and biases of all layers, one after another: float64."""
    modules = dict.fromkeys(layer.module for layer in model.layers)  # the experts of a block are one module
    weights = [p for module in modules for p in module.parameters(recurse=False)]
    for p in weights:
        p.requires_grad_(True)
    ids = torch.tensor(np.array(example.input_ids))[None].long()
    labels = torch.tensor(np.array(example.labels))[1:].long()
    logits = model.module(input_ids=ids, use_cache=False).logits[0, :-1]
    loss = torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100)
    gradients = torch.autograd.grad(loss, weights, materialize_grads=True)
    for p in weights:
        p.requires_grad_(False)
    return float(loss.detach()), torch.cat([g.double().flatten() for g in gradients])
