"""Mixtures of experts: the layer of each expert gets what plain autograd gives at the fused parameters."""

from __future__ import annotations

import pytest
import torch
import transformers

from gdig.errors import ModelError
from gdig.influence.curvature import with_ones
from gdig.model.batches import make_batches
from gdig.model.capture import GradientPass
from gdig.model.layer_names import is_router
from tests.support.mixtures import FAMILIES, mixture, plain_gradients
from tests.support.tiny_models import make_examples

pytestmark = pytest.mark.skipif(
    int(transformers.__version__.split(".")[0]) < 5, reason="experts are fused since transformers 5"
)
_ROUNDING = 2.0**-24
_DEEP = 64
"""Operations from a weight to the loss, whose roundings add up. Routers compute in float32 whatever the dtype."""


def gradients_of(model, examples, token_batch_size=64):
    """For each example its loss, and its gradient [O, J] at each layer that sees it, by the pass."""
    found = [{} for _ in examples]
    losses = [0.0] * len(examples)
    passes = GradientPass(model)
    for batch in make_batches(examples, token_batch_size, window=model.window):

        def sink(index, a, d, places, batch=batch):
            layer = model.layers[index]
            a = with_ones(a, layer.width)
            for line, row in enumerate(batch.rows.tolist()):
                rows = places.line(line, int(batch.lengths[line]))
                found[row][layer.name] = d[rows].T @ a[rows]

        for row, loss in zip(batch.rows.tolist(), passes.run(batch, sink).tolist(), strict=True):
            losses[row] = loss
    return losses, found


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_plain_autograd(family):
    model = mixture(family)
    experts = [layer for layer in model.layers if layer.expert is not None]
    assert {layer.expert.number for layer in experts} == set(range(4))
    modules = dict(model.module.named_modules())
    assert not any(is_router(layer.name, modules) for layer in model.layers)
    assert model.coverage.share_of_blocks > 0.5 and model.coverage.warning is None
    examples = make_examples(4, 3, 4, 12)
    losses, found = gradients_of(model, examples)
    for example, loss, gradients in zip(examples, losses, found, strict=True):
        expected_loss, expected = plain_gradients(model, example)
        length = torch.cat([g.flatten() for g in expected.values()]).norm()
        assert loss == pytest.approx(expected_loss, rel=_DEEP * _ROUNDING)
        for name, want in expected.items():
            got = gradients.get(name, torch.zeros_like(want))
            assert (got - want).norm() <= _DEEP * _ROUNDING * length, name
