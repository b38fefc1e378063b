"""Which way a layer's scores go, and inputs that several layers share."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gdig.influence import dense_plan, layer_scores
from gdig.influence.curvature import fit_curvature
from gdig.influence.layer_scores import shapes_of
from gdig.influence.precondition_seeds import precondition_seeds
from gdig.model.causal_model import Model
from gdig.passes.influence_pass import make_influence_pass
from gdig.progress import Progress
from tests.support.profiles import examples
from tests.support.tiny_models import gpt2, llama, make_examples, wrapped

SEEDS, POOL = make_examples(6, 2), make_examples(10, 3)
QUIET = Progress(quiet=True)


def both_ways(model, config, monkeypatch, dense_bytes=dense_plan.DENSE_BYTES, reading=0):
    """Influence by columns alone, and with seeds multiplied out where that is cheaper; and how often it was.

    `reading`: the cost of reading W.
    """
    joined, _ = precondition_seeds(model, [None] * len(model.layers), SEEDS, [], config, QUIET)
    calls = []
    dense = layer_scores.ops.score_dense
    monkeypatch.setattr(layer_scores.ops, "score_dense", lambda *x, **y: (calls.append(1), dense(*x, **y)))
    monkeypatch.setattr(dense_plan, "_READING", {"full": reading, "half": reading})
    multiplied = make_influence_pass(model, joined, config, QUIET, dense_bytes=dense_bytes).compute(POOL)[0]
    used = len(calls)
    by_columns = make_influence_pass(model, joined, config, QUIET, dense_bytes=0).compute(POOL)[0]
    assert len(calls) == used
    return by_columns, multiplied, used


ALL = {"inversion": "identity", "seed_energy": 1.0, "seed_rank": 1000, "projection_dim": 8, "projection_side": 2}


@pytest.mark.parametrize("kind", [llama, gpt2], ids=["llama", "gpt2"])
def test_both_ways_give_the_same_scores(kind, monkeypatch):
    model, config = wrapped(kind(), **ALL)
    by_columns, multiplied, used = both_ways(model, config, monkeypatch)
    assert used > 0
    # float64 but for the result, stored as float32.
    assert np.all(np.abs(by_columns - multiplied) <= 2.0**-23 * np.abs(by_columns) + 1e-12 * np.abs(by_columns).max())


def test_few_columns_stay_factored(monkeypatch):
    model, config = wrapped(llama(), inversion="identity", seed_energy=0.1, seed_rank=1, projection_dim=8)
    assert both_ways(model, config, monkeypatch)[2] == 0


def test_where_w_is_slow_to_read_the_columns_serve(monkeypatch):
    model, config = wrapped(llama(), **ALL)
    assert both_ways(model, config, monkeypatch, reading=10**6)[2] == 0


def test_half_precision_adds_little_to_the_error_of_the_form(monkeypatch):
    """W in float16, because W in full does not fit. What it adds to the squared error of the scores is a hundredth of
    what the columns have lost already."""
    options = {**ALL, "seed_energy": 0.95}
    model, config = wrapped(llama(), **options)
    joined, _ = precondition_seeds(model, [None] * len(model.layers), SEEDS, [], config, QUIET)
    full = dense_plan.planned_bytes(shapes_of(joined), 1 << 40)
    assert set(dense_plan.plan_dense(shapes_of(joined), full)) == {"full"}
    assert set(dense_plan.plan_dense(shapes_of(joined), full - 1)) == {"half"}
    exact = both_ways(*wrapped(llama(), **ALL), monkeypatch)[0]
    by_columns, multiplied, used = both_ways(model, config, monkeypatch, dense_bytes=full - 1)
    assert used > 0
    added, lost = np.square(multiplied - by_columns).sum(), np.square(by_columns - exact).sum()
    assert 0 < added <= lost / 100


def seeds_of_layers(shapes, seeds=3, energy=0.99):
    """Shapes of factors in float32 of layers (O, J, columns a seed)."""
    return [dense_plan.SeedShape(o, j, c * seeds, seeds, 4, energy) for o, j, c in shapes]


def test_the_plan_gives_memory_to_the_layers_that_gain_most():
    layers = seeds_of_layers([(40, 20, 10), (40, 20, 30), (40, 20, 2), (60, 20, 20)])
    size = 40 * 20 * 3 * 4
    # C (O + J) over O J: 30 * 60, 90 * 60, 6 * 60 over 800, and 60 * 80 over 1200: gains 2.25, 6.75, 0.45, 4. W pays
    # from 1 + 3 (16 + 25) / 1024 on.
    assert dense_plan.plan_dense(layers, 10 * size) == ["full", "full", "none", "full"]
    assert dense_plan.plan_dense(layers, size) == ["half", "half", "none", "none"]  # the fourth takes 3/4
    assert dense_plan.plan_dense(layers, size * 5 // 4) == ["none", "half", "none", "half"]
    assert dense_plan.plan_dense(layers, size) == dense_plan.plan_dense(layers, dense_plan.planned_bytes(layers, size))
    assert dense_plan.plan_dense(layers, 0) == ["none"] * 4
    # An energy beside which float16's rounding counts: W is float32, or not there.
    assert dense_plan.plan_dense(seeds_of_layers([(40, 20, 30)], energy=1.0), size - 1) == ["none"]
    assert dense_plan.plan_dense(seeds_of_layers([(40, 20, 30)] * 2, energy=1.0), size) == ["full", "none"]


@settings(max_examples=examples(50), deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60), st.integers(1, 30)), min_size=1, max_size=6),
    st.integers(0, 10**5),
    st.sampled_from([0.9, 0.99997, 1.0]),
)
def test_the_memory_that_a_plan_takes_gives_the_plan_again(shapes, dense_bytes, energy):
    """A run records what the plan takes. Another machine, with other memory, then makes the same plan."""
    layers = seeds_of_layers(shapes, energy=energy)
    taken = dense_plan.planned_bytes(layers, dense_bytes)
    assert taken <= dense_bytes and dense_plan.planned_bytes(layers, taken) == taken
    assert dense_plan.plan_dense(layers, taken) == dense_plan.plan_dense(layers, dense_bytes)


def test_memory_for_dense_gradients_is_a_part_of_what_the_plan_may_take():
    cpu, gpu, gib = torch.device("cpu"), torch.device("cuda"), 1 << 30
    assert dense_plan.dense_room(None, 0, cpu) == 1.5 * gib
    assert dense_plan.dense_room(64 * gib, gib, cpu) == 1.5 * gib
    assert dense_plan.dense_room(5 * gib, gib, gpu) == 0, "columns alone, whose kernel takes one launch a layer"
    assert dense_plan.dense_room(2 * gib, 3 * gib // 2, cpu) == gib // 2, "what the factors and a batch leave"
    assert dense_plan.dense_room(gib, 2 * gib, cpu) == 0


def test_a_sweep_that_reads_w_in_half_of_its_layers_takes_larger_batches():
    assert [dense_plan.cpu_tokens(n, 5) for n in range(6)] == [512, 512, 512, 1024, 1024, 1024]
    assert dense_plan.cpu_tokens(1, 2) == 1024 and dense_plan.cpu_tokens(0, 0) == 512


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
    assert gate.l_a is up.l_a and gate.q_a is up.q_a
    assert not torch.equal(gate.q_s, up.q_s)


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
