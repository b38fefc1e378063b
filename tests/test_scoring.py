"""Which way a layer's scores go, and inputs that several layers share."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gdig.influence import layer_scores as scoring
from gdig.influence.curvature import fit_curvature
from gdig.influence.seed_factors import precondition_seeds
from gdig.model.causal_model import Model
from gdig.passes.influence_pass import make_influence_pass
from gdig.progress import Progress
from tests.support.tiny_models import gpt2, llama, make_examples, wrapped

SEEDS, POOL = make_examples(6, 2), make_examples(10, 3)
QUIET = Progress(quiet=True)


def both_ways(model, config, monkeypatch):
    """Influence by factors alone, and with seeds multiplied out where that is cheaper; and how often it was."""
    joined, _ = precondition_seeds(model, [None] * len(model.layers), SEEDS, [], config, QUIET)
    calls = []
    dense = scoring.ops.score_dense
    monkeypatch.setattr(scoring.ops, "score_dense", lambda *x: (calls.append(1), dense(*x)))
    multiplied = make_influence_pass(model, joined, config, QUIET).compute(POOL)[0]
    used = len(calls)
    monkeypatch.setattr(scoring, "DENSE_BYTES", 0)
    factored = make_influence_pass(model, joined, config, QUIET).compute(POOL)[0]
    assert len(calls) == used
    return factored, multiplied, used


@pytest.mark.parametrize("kind", [llama, gpt2], ids=["llama", "gpt2"])
def test_both_ways_give_the_same_scores(kind, monkeypatch):
    options = {"inversion": "identity", "seed_energy": 1.0, "seed_rank": 1000, "projection_dim": 8}
    model, config = wrapped(kind(), projection_side=2, **options)
    factored, multiplied, used = both_ways(model, config, monkeypatch)
    assert used > 0
    # float64 but for the result, stored as float32.
    assert np.all(np.abs(factored - multiplied) <= 2.0**-23 * np.abs(factored) + 1e-12 * np.abs(factored).max())


def test_few_columns_stay_factored(monkeypatch):
    model, config = wrapped(llama(), inversion="identity", seed_energy=0.1, seed_rank=1, projection_dim=8)
    assert both_ways(model, config, monkeypatch)[2] == 0


def test_layers_that_read_one_tensor_are_found():
    model, _ = wrapped(llama(), filter_modules="mlp|self_attn")
    inputs = {layer.name.removeprefix("model.layers.0."): layer.input_name for layer in model.layers[:7]}
    first = "model.layers.0."
    assert inputs["self_attn.k_proj"] == inputs["self_attn.v_proj"] == first + "self_attn.q_proj"
    assert inputs["mlp.up_proj"] == first + "mlp.gate_proj"
    assert (
        inputs["mlp.down_proj"] == first + "mlp.down_proj" and inputs["self_attn.o_proj"] == first + "self_attn.o_proj"
    )


def test_a_shared_input_has_one_factor():
    model, config = wrapped(llama(), filter_modules="mlp")
    factors, _ = fit_curvature(model, POOL, np.arange(len(POOL), dtype=np.uint64), config, QUIET)
    by_name = {layer.name: f for layer, f in zip(model.layers, factors, strict=True)}
    gate, up = (by_name[f"model.layers.0.mlp.{side}_proj"] for side in ("gate", "up"))
    assert gate.a is up.a and gate.q_a is up.q_a
    assert not torch.equal(gate.s, up.s)


def test_a_line_without_a_finite_loss_touches_no_other(monkeypatch):
    """The sweep does not mask such a line, since every sum is one example's own; the rest keeps its numbers."""
    model, config = wrapped(llama(), inversion="identity", projection_dim=8, projection_side=2, token_batch_size=4096)
    joined, _ = precondition_seeds(model, [None] * len(model.layers), SEEDS, [], config, QUIET)
    sweeper = make_influence_pass(model, joined, config, QUIET)
    clean = sweeper.compute(POOL)
    run = Model.with_states

    def poisoned(self, ids):
        hidden, _ = run(self, ids)
        hidden = hidden + torch.where(torch.arange(len(ids))[:, None, None] == 2, torch.nan, 0.0)
        return hidden, (hidden,)

    monkeypatch.setattr(Model, "with_states", poisoned)
    dirty = sweeper.compute(POOL)
    bad = ~np.isfinite(dirty[2])
    assert bad.sum() == 1
    for before, after in zip(clean, dirty, strict=True):
        assert np.array_equal(before[~bad], after[~bad])
