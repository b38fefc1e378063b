"""Hidden-state sketches against a plain form: one example at a time, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gdig.errors import ConfigError, ModelError
from gdig.influence.precondition_seeds import precondition_seeds
from gdig.passes.influence_pass import make_forward_pass, make_influence_pass
from gdig.philox import rademacher, stream_key
from gdig.progress import Progress
from tests.support.tiny_models import MODELS, llama, make_examples, wrapped

QUIET = Progress(quiet=True)
SEEDS, POOL = make_examples(3, 2), make_examples(24, 3)


def plain_vector(model, config, example) -> np.ndarray:
    """The definition, token by token."""
    ids = torch.from_numpy(example.input_ids).long()[None]
    with torch.no_grad():
        output = model.base(input_ids=ids, use_cache=False, output_hidden_states=True)
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state), "the last states are those after the norm"
    layers = config.hidden_layers
    columns = config.projection_dim // layers
    out = np.zeros(config.projection_dim)
    for depth in range(layers):
        states = output.hidden_states[-1 - depth][0].numpy()
        e = sum((t + 1) * h for t, h in enumerate(states)) / sum(range(1, len(states) + 1))
        if len(e) > columns:
            signs = rademacher(stream_key("hidden states", depth, config.projection_seed), columns, len(e))
            e = signs.astype(np.float64) @ e
        out[depth * columns : depth * columns + len(e)] = e / np.linalg.norm(e) / np.sqrt(layers)
    return out


def sweep_pass(model, config):
    joined, _ = precondition_seeds(model, [None] * len(model.layers), SEEDS, [], config, QUIET)
    return make_influence_pass(model, joined, config, QUIET)


def options(**more):
    return {"inversion": "identity", "projection_dim": 24, "projection_side": 4, **more}


@pytest.mark.parametrize("kind", MODELS, ids=str)
@pytest.mark.parametrize(("dim", "layers"), [(24, 1), (8, 1), (24, 2), (7, 3)])
def test_a_vector_is_the_projected_mean_weighted_by_position(kind, dim, layers):
    """States of 16 columns: kept, projected, and of several layers. The stored float32 rounds once; float64 sums of
    some thousand terms differ by 1e-12."""
    model, config = wrapped(MODELS[kind](), **options(projection_dim=dim, hidden_layers=layers))
    got = make_forward_pass(model, config, QUIET).compute(POOL).hidden
    for vector, example in zip(got, POOL, strict=True):
        want = plain_vector(model, config, example)
        assert np.all(np.abs(vector - want) <= 2.0**-24 * np.abs(want) + 1e-12)


@pytest.mark.parametrize("kind", MODELS, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_pass_without_gradients_gives_the_same_losses_and_states(kind, reduction):
    model, config = wrapped(MODELS[kind](), **options(hidden_layers=2, loss_reduction=reduction))
    both, forward = sweep_pass(model, config).compute(POOL), make_forward_pass(model, config, QUIET).compute(POOL)
    assert np.all(np.abs(both.loss - forward.loss) <= 2.0**-23 * np.abs(both.loss))
    assert np.all(np.abs(both.hidden - forward.hidden) <= 2.0**-23 * np.abs(both.hidden) + 1e-12)
    assert forward.numbers.shape == (len(POOL), 0)
    assert forward.sketch.tobytes() == forward.hidden.tobytes()


def test_a_pass_without_gradients_makes_no_graph():
    model, config = wrapped(llama(), **options())
    seen = []
    model.module.lm_head.register_forward_hook(lambda module, args, out: seen.append(out.requires_grad))
    make_forward_pass(model, config, QUIET).compute(POOL)
    assert seen and not any(seen)


def test_neither_batch_nor_neighbours_change_a_vector():
    model, config = wrapped(llama(), **options(projection_dim=8))
    alone = make_forward_pass(model, config.with_options(token_batch_size=1), QUIET).compute(POOL)
    together = make_forward_pass(model, config.with_options(token_batch_size=4096), QUIET).compute(POOL)
    assert np.all(np.abs(alone.hidden - together.hidden) <= 2.0**-23 * np.abs(alone.hidden) + 1e-12)


def test_more_layers_than_there_are():
    model, config = wrapped(llama(), **options(hidden_layers=4))
    with pytest.raises(ModelError, match=r"hidden_layers=4: expected at most 3, as the model has"):
        make_forward_pass(model, config, QUIET).compute(POOL[:1])
    with pytest.raises(ConfigError, match="hidden_layers=25: expected at most projection_dim=24"):
        wrapped(llama(), **options(hidden_layers=25))
