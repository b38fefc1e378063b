"""Mixtures of experts: the layer of each expert gets what plain autograd gives at the fused parameters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers

from gdig.config.config import Config
from gdig.data.tokens import Example
from gdig.errors import ModelError
from gdig.influence.curvature_sums import with_ones
from gdig.influence.precondition_seeds import precondition_seeds
from gdig.model.batches import make_batches
from gdig.model.capture import GradientPass
from gdig.model.causal_model import wrap_model
from gdig.model.layer_names import is_router
from gdig.model.load_trial import Use, _note_experts
from gdig.model.partition_pass import PartitionPass
from gdig.passes.influence_pass import make_influence_pass
from gdig.progress import Progress
from tests.support.families import tiny_model
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
    by_example = [{} for _ in examples]
    losses = [0.0] * len(examples)
    passes = GradientPass(model)
    for batch in make_batches(examples, token_batch_size, window=model.window):

        def sink(index, a, d, places, batch=batch):
            layer = model.layers[index]
            a = with_ones(a, layer.width)
            for line, row in enumerate(batch.rows.tolist()):
                rows = places.line(line, int(batch.lengths[line]))
                by_example[row][layer.name] = d[rows].T @ a[rows]

        for row, loss in zip(batch.rows.tolist(), passes.run(batch, sink).tolist(), strict=True):
            losses[row] = loss
    return losses, by_example


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_plain_autograd(family):
    model, _ = mixture(family)
    experts = [layer for layer in model.layers if layer.expert is not None]
    assert {layer.expert.number for layer in experts} == set(range(4))
    modules = dict(model.module.named_modules())
    assert not any(is_router(layer.name, modules) for layer in model.layers)
    assert model.coverage.share_of_blocks > 0.5 and model.coverage.warning is None
    examples = make_examples(4, 3, 4, 12)
    losses, by_example = gradients_of(model, examples)
    for example, loss, gradients in zip(examples, losses, by_example, strict=True):
        expected_loss, expected = plain_gradients(model, example)
        length = torch.cat([g.flatten() for g in expected.values()]).norm()
        assert loss == pytest.approx(expected_loss, rel=_DEEP * _ROUNDING)
        for name, want in expected.items():
            got = gradients.get(name, torch.zeros_like(want))
            assert (got - want).norm() <= _DEEP * _ROUNDING * length, name


def test_rows_do_not_depend_on_their_neighbours():
    """In batches of one shape, whatever the other lines are: up to the rounding of products of other heights."""
    model, _ = mixture("qwen3_moe")
    first, *others = (Example(e.input_ids[:12], e.labels[:12]) for e in make_examples(4, 5, 12, 12))
    by_partner = [gradients_of(model, [first, other])[1][0] for other in others]
    alone = gradients_of(model, [first])[1][0]
    length = torch.cat([g.flatten() for g in alone.values()]).norm()
    for gradients in by_partner:
        assert set(gradients) == set(alone)
        for name, want in alone.items():
            assert (gradients[name] - want).norm() <= _DEEP * _ROUNDING * length


def test_a_line_without_a_finite_loss_adds_nothing():
    model, _ = mixture("mixtral")
    examples = make_examples(3, 6, 8, 8)
    embedding = model.module.get_input_embeddings().weight
    bad = set(examples[1].input_ids.tolist()) - {int(x) for e in (examples[0], examples[2]) for x in e.input_ids}
    with torch.no_grad():
        embedding[bad.pop()] = float("nan")
    usable = [True, False, True]
    (batch,) = make_batches(examples, 64)
    seen = []

    def sink(index, a, d, places):
        lines = torch.div(places.tokens, batch.shape[1], rounding_mode="floor") if places.tokens is not None else None
        assert a.isfinite().all() and d.isfinite().all()
        if lines is not None:
            expected = torch.tensor([usable[batch.rows[line]] for line in lines.tolist()], dtype=torch.float32)
            assert torch.equal(places.mask, expected)
            seen.append(index)

    losses = GradientPass(model).run(batch, sink)
    assert losses.isfinite().tolist() == [usable[row] for row in batch.rows] and seen


def test_pads_go_to_no_expert_and_tokens_to_as_many_as_the_router_says():
    model, _ = mixture("olmoe")
    examples = make_examples(5, 7, 3, 20)
    counts = {}
    (batch,) = make_batches(examples, 512)

    def sink(index, a, d, places):
        layer = model.layers[index]
        if layer.expert is not None:
            assert len(places.tokens.unique()) == len(a) == places.examples.end
            counts[layer.expert.matrix] = counts.get(layer.expert.matrix, 0) + len(a)
            lines, columns = places.tokens // batch.shape[1], places.tokens % batch.shape[1]
            assert all(columns.numpy() < batch.lengths[lines.numpy()])
            assert lines.bincount(minlength=len(examples)).tolist() == places.examples.lengths.tolist()

    GradientPass(model).run(batch, sink)
    slots = {layer.expert.slots for layer in model.layers if layer.expert is not None}
    assert slots == {2} and len(counts) == 4
    assert set(counts.values()) == {2 * sum(len(example) for example in examples)}


def test_a_partition_gets_the_bits_of_a_pass_over_all_layers():
    model, _ = mixture("qwen3_moe", torch.float32)
    (batch,) = make_batches(make_examples(4, 8, 5, 15), 512)
    all_layers, upper = {}, {}
    GradientPass(model).run(batch, lambda i, a, d, places: all_layers.__setitem__(i, (a.clone(), d.clone())))
    partition = [i for i, layer in enumerate(model.layers) if ".0." in layer.name.partition("mlp")[0]]
    passes = PartitionPass(model, partition)
    passes.run(batch, lambda i, a, d, places: upper.__setitem__(partition[i], (a.clone(), d.clone())))
    assert partition and 0 < len(upper) < len(all_layers)
    for index, (a, d) in upper.items():
        assert torch.equal(a, all_layers[index][0]) and torch.equal(d, all_layers[index][1])
    module = next(layer.module for layer in model.layers if layer.expert is not None)
    assert "forward" not in vars(module)  # the module is as it was


def test_gradient_checkpointing_changes_nothing():
    model, _ = mixture("qwen3_moe", torch.float32)
    saving, _ = mixture("qwen3_moe", torch.float32, gradient_checkpointing=True)
    examples = make_examples(4, 9, 5, 15)
    for plain, saved in zip(gradients_of(model, examples)[1], gradients_of(saving, examples)[1], strict=True):
        assert plain.keys() == saved.keys() and all(torch.equal(plain[name], saved[name]) for name in plain)


@pytest.mark.parametrize("option", [{"inversion": "cg"}, {"torch_compile": True}], ids=str)
def test_options_that_do_not_take_experts_say_so(option):
    with pytest.raises(ModelError, match=r"takes layers that see every token, got model\.layers\.\d\.mlp\.experts"):
        mixture("mixtral", **option)


def test_experts_that_drop_tokens_beyond_a_capacity_are_refused():
    def change(module):
        experts = module.model.layers[1].mlp.experts
        plain = experts.forward

        def dropping(hidden, index, weights):
            of_expert = torch.nn.functional.one_hot(index.flatten(), 4)
            place = (of_expert.cumsum(0) * of_expert).sum(1)  # of each slot among those of its expert, from 1
            capacity = 1.25 * len(place) / 4
            return plain(hidden, index, weights * (place <= capacity).view_as(index))

        experts.forward = dropping

    with pytest.raises(ModelError, match=r"depend on the other lines of its batch.*drop tokens beyond a capacity"):
        mixture("qwen3_moe", change=change)


def test_scores_depend_on_the_neighbours_of_a_row_by_rounding_alone():
    """In float32, where products of other heights round otherwise: twice the error of a gradient, and of a seed's."""
    options = {"inversion": "identity", "seed_energy": 1.0, "seed_rank": 10_000, "projection_dim": 32,
               "projection_side": 4, "token_batch_size": 64}  # fmt: skip
    model, config = mixture("qwen3_moe", torch.float32, **options)
    row, *others = (Example(e.input_ids[:12], e.labels[:12]) for e in make_examples(6, 5, 12, 12))
    seeds, quiet = make_examples(3, 2), Progress(quiet=True)
    joined, _ = precondition_seeds(model, [None] * len(model.layers), seeds, [], config, quiet)
    sweep = make_influence_pass(model, joined, config, quiet)
    influences = [sweep.compute([row, other]).numbers[0] for other in others]
    lengths = [
        torch.cat([g.flatten() for g in plain_gradients(model, e)[1].values()]).norm().item() for e in (row, *seeds)
    ]
    bound = 4 * _DEEP * _ROUNDING * lengths[0] * np.array(lengths[1:])
    assert all(np.all(np.abs(numbers - influences[0]) <= bound) for numbers in influences)
    assert np.array_equal(influences[0], sweep.compute([row, others[0]]).numbers[0])


def test_a_module_that_computes_something_else_is_refused():
    """It looks like the interface, and does not do what the interface does."""

    def change(module):
        experts = module.model.layers[1].mlp.experts
        plain = experts.forward
        experts.forward = lambda hidden, index, weights: plain(hidden, index, weights.square())

    with pytest.raises(ModelError, match=r"cannot take gradients of its experts \(model\.layers\.N\.mlp\.experts\)"):
        mixture("qwen3_moe", change=change)


def test_calls_of_another_form_are_noted_as_another_computation():
    """A class of the same names can take indices of other dimensions, or return a tuple."""
    model, _ = mixture("qwen3_moe")
    hidden, index = torch.zeros(6, 16, dtype=torch.float64), torch.zeros(6, 2, dtype=torch.int64)
    weights = torch.ones(6, 2, dtype=torch.float64)
    for arguments, output in (((hidden, index[None], weights), hidden), ((hidden, index, weights), (hidden, None))):
        use = Use()
        _note_experts(model.experts[0], arguments, {}, output, use, (2, 3))
        assert not use.linear and use.why_not is not None


def test_an_adapter_on_fused_experts_is_refused_and_its_other_layers_are_not():
    """peft has one pair of matrices for all experts, and adds their product to the weights."""
    peft = pytest.importorskip("peft")
    of_experts = {"target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"], "r": 2}
    config = Config.build({"device": "cpu"})
    alone = peft.get_peft_model(tiny_model("qwen3_moe"), peft.LoraConfig(target_modules=[], **of_experts))
    with pytest.raises(ModelError, match=r"experts.*lora_A.* weights of all experts .*merge_and_unload"):
        wrap_model(alone, config, adapter=True)
    both = peft.get_peft_model(tiny_model("qwen3_moe"), peft.LoraConfig(target_modules=["q_proj"], **of_experts))
    model = wrap_model(both, config, adapter=True)
    assert all(".q_proj.lora_" in layer.name for layer in model.layers) and len(model.layers) == 4
    assert "mlp.experts" in model.coverage.warning
    merged = wrap_model(alone.merge_and_unload(), config)
    assert {layer.expert.number for layer in merged.layers} == set(range(4))
