"""Experts as lists of modules: the layers of each expert get what plain autograd gives, in any layout of the block."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from gdig.data.tokens import Example
from gdig.errors import ModelError
from gdig.influence.curvature import fit_curvature
from gdig.influence.curvature_sums import with_ones
from gdig.influence.precondition_seeds import precondition_seeds
from gdig.model.batches import make_batches
from gdig.model.capture import GradientPass
from gdig.model.expert_lists import TokenTrace, listed
from gdig.model.partition_pass import PartitionPass
from gdig.model.token_memory import TokenMemory
from gdig.passes.influence_pass import make_influence_pass
from gdig.progress import Progress
from tests.support.graph_memory import kept_bytes
from tests.support.mixtures import plain_gradients
from tests.support.tiny_models import llama, make_examples, wrapped

EXPERTS, SLOTS = 4, 2
_ROUNDING = 2.0**-24
_DEEP = 64
"""Operations from a weight to the loss, whose roundings add up; the losses are float32."""


class Mlp(nn.Module):
    """The expert of Mixtral's and DeepSeek's own code."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(hidden, width, bias=False), nn.Linear(hidden, width)
        self.down_proj = nn.Linear(width, hidden, bias=False)

    def forward(self, x):
        return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """A block that calls its experts one after another, with rows taken in one of several ways."""

    def __init__(self, hidden: int, layout: str) -> None:
        super().__init__()
        self.gate = nn.Linear(hidden, EXPERTS, bias=False)
        self.experts = nn.ModuleList(Mlp(hidden, 8) for _ in range(EXPERTS))
        self.layout = layout

    def forward(self, hidden):
        x = hidden.view(-1, hidden.shape[-1])
        weights, chosen = self.gate(x).softmax(-1).topk(SLOTS, -1)
        return getattr(self, self.layout)(x, weights, chosen).view_as(hidden)

    def by_where(self, x, weights, chosen):  # Mixtral and Qwen2-MoE: rows slot by slot, so not in the tokens' order
        out = torch.zeros_like(x)
        masks = nn.functional.one_hot(chosen, EXPERTS).permute(2, 1, 0)
        for number, expert in enumerate(self.experts):
            slot, token = torch.where(masks[number])
            rows = expert(x[None, token].reshape(-1, x.shape[-1]))
            out.index_add_(0, token, rows * weights[token, slot, None])
        return out

    def by_mask(self, x, weights, chosen):
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            mask = (chosen == number).any(-1)
            if mask.any():
                gates = (weights * (chosen == number)).sum(-1)
                out[mask] += expert(x[mask]) * gates[mask][:, None]
        return out

    def by_slices(self, x, weights, chosen):  # DeepSeek's inference: one taking, sorted by expert, and slices of it
        order = chosen.flatten().argsort(stable=True)
        rows, outputs, first = x.index_select(0, order // SLOTS), [], 0
        for expert, n in zip(self.experts, chosen.flatten().bincount(minlength=EXPERTS).tolist(), strict=True):
            outputs.append(expert(rows[first : first + n]))
            first += n
        out = torch.cat(outputs) * weights.flatten()[order][:, None]
        return torch.zeros_like(x).index_add_(0, order // SLOTS, out)

    def by_copies(self, x, weights, chosen):  # rows of another tensor than the block's input
        return self.by_mask(x * 1.0, weights, chosen)


def model_of(layout: str, dtype: torch.dtype = torch.float64, **options):
    """Two blocks of Llama whose MLPs are mixtures."""
    module = llama()
    torch.manual_seed(1)
    for block in module.model.layers:
        block.mlp = Block(module.config.hidden_size, layout)
        for parameter in block.mlp.parameters():
            nn.init.normal_(parameter, 0, 0.3)
    return wrapped(module, dtype, **options)


def gradients_of(model, examples):
    """For each example its gradient [O, J] at each layer, by the pass."""
    gradients = [{} for _ in examples]
    for batch in make_batches(examples, 64, window=model.window):

        def sink(index, a, d, places, batch=batch):
            layer = model.layers[index]
            a = with_ones(a, layer.width)
            assert len(a) == len(d) == places.examples.end == len(places.mask)
            for line, row in enumerate(batch.rows.tolist()):
                rows = places.line(line, int(batch.lengths[line]))
                gradients[row][layer.name] = d[rows].T @ a[rows]

        GradientPass(model).run(batch, sink)
    return gradients


@pytest.mark.parametrize("layout", ["by_where", "by_mask", "by_slices"])
def test_gradients_are_those_of_plain_autograd(layout):
    model, _ = model_of(layout)
    assert len(model.layers) == 2 * 3 * EXPERTS and model.coverage.share_of_blocks > 0.5
    assert {layer.expert.slots for layer in model.layers} == {SLOTS}
    assert {layer.expert.matrix for layer in model.layers} == {
        f"model.layers.{block}.mlp.experts.{name}_proj" for block in range(2) for name in ("gate", "up", "down")
    }
    # Lines that begin alike have rows of equal numbers, with other gradients.
    first = make_examples(1, 3, 12, 12)[0]
    other = Example(first.input_ids.copy(), first.labels.copy())
    other.input_ids[-1], other.labels[-1] = 5, 5
    examples = [first, other, *make_examples(3, 4, 4, 12)]
    for example, gradients in zip(examples, gradients_of(model, examples), strict=True):
        _, expected = plain_gradients(model, example)
        length = torch.cat([g.flatten() for g in expected.values()]).norm()
        for name, want in expected.items():
            got = gradients.get(name, torch.zeros_like(want))
            assert (got - want).norm() <= _DEEP * _ROUNDING * length, name


def test_an_expert_may_get_no_token_of_a_batch():
    model, _ = model_of("by_mask", filter_modules=r"layers\.1\.mlp\.experts\.3\.")
    assert len(model.layers) == 3
    by_example = [gradients_of(model, [example])[0] for example in make_examples(12, 9, 3, 4)]
    assert {len(gradients) for gradients in by_example} == {0, 3}


def test_rows_of_another_tensor_are_refused():
    with pytest.raises(ModelError, match=r"its experts \(model\.layers\.N\.mlp\.experts\): .* out of its own input"):
        model_of("by_copies")


@pytest.mark.parametrize("option", [{"inversion": "cg"}, {"torch_compile": True}], ids=str)
def test_options_that_do_not_take_experts_say_so(option):
    with pytest.raises(ModelError, match=r"takes layers that see every token, got model\.layers\.\d\.mlp\.experts"):
        model_of("by_where", **option)


def test_a_partition_and_gradient_checkpointing_change_no_bit():
    model, _ = model_of("by_where", torch.float32)
    saving, _ = model_of("by_where", torch.float32, gradient_checkpointing=True)
    (batch,) = make_batches(make_examples(4, 8, 5, 15), 512)
    whole, saved, partial = {}, {}, {}
    GradientPass(model).run(batch, lambda i, a, d, places: whole.__setitem__(i, (a.clone(), d.clone())))
    GradientPass(saving).run(batch, lambda i, a, d, places: saved.__setitem__(i, (a.clone(), d.clone())))
    partition = [i for i, layer in enumerate(model.layers) if "layers.1" in layer.name]
    passes = PartitionPass(model, partition)
    passes.run(batch, lambda i, a, d, places: partial.__setitem__(partition[i], (a.clone(), d.clone())))
    assert len(partial) < len(whole) and saved.keys() == whole.keys()
    for index, pair in [*partial.items(), *saved.items()]:
        assert all(torch.equal(x, y) for x, y in zip(pair, whole[index], strict=True))
    length = model.window
    (batch,) = make_batches(make_examples(1, 1, length, length), 4096)
    graph = TokenMemory.count(model).graph
    # The routing keeps its numbers: how many bytes depends on the block's code, and on what goes where.
    assert graph[0] == pytest.approx(kept_bytes(model, batch) / length, rel=0.05)
    upper = partition[0]  # the gates begin a block
    assert max(graph[upper:]) == graph[upper] < 0.6 * graph[0]


@pytest.mark.parametrize("experts", ["3", "[02]", "1"])
def test_chosen_experts_count_where_the_tokens_of_the_count_go_to_others(experts):
    """Whatever a batch sends them, the graph keeps at most what the plan says."""
    model, _ = model_of("by_mask", torch.float32, filter_modules=rf"layers\.1\.mlp\.experts\.{experts}\.")
    counted = TokenMemory.count(model).graph
    length, held = model.window, []
    for example in make_examples(6, 1, length, length):
        (batch,) = make_batches([example], 4096)
        held.append(kept_bytes(model, batch))
    assert 0 < max(held) <= counted[0] * length


def test_scores_are_those_of_whole_gradients():
    """Without curvature, the influence is the inner product of the two gradients."""
    options = {"inversion": "identity", "seed_energy": 1.0, "seed_rank": 10_000, "projection_dim": 32,
               "projection_side": 4, "token_batch_size": 128}  # fmt: skip
    model, config = model_of("by_where", **options)
    pool, seeds, quiet = make_examples(4, 3), make_examples(3, 2), Progress(quiet=True)
    joined, report = precondition_seeds(model, [None] * len(model.layers), seeds, pool[:2], config, quiet)
    got = make_influence_pass(model, joined, config, quiet).compute(pool).numbers
    flat = [torch.cat([g.flatten() for g in plain_gradients(model, e)[1].values()]) for e in (*pool, *seeds)]
    rows, columns = torch.stack(flat[: len(pool)]), torch.stack(flat[len(pool) :])
    bound = 2 * _DEEP * _ROUNDING * np.outer(rows.norm(dim=1), columns.norm(dim=1))
    assert np.all(np.abs(got - (rows @ columns.T).numpy()) <= bound) and report.relative_error < 1e-6


def test_experts_with_few_tokens_share_the_curvature_of_the_list():
    model, config = model_of("by_mask", torch.float32, token_batch_size=128)
    quiet, sample = Progress(quiet=True), make_examples(3, 1, 4, 12)
    factors, _ = fit_curvature(model, sample, np.arange(3, dtype=np.uint64), config, quiet)
    seen = {}
    for layer, f in zip(model.layers, factors, strict=True):
        assert f.shared == (f.seen < max(layer.width, layer.out_features))
        seen[layer.expert.matrix] = seen.get(layer.expert.matrix, 0) + f.seen
    assert set(seen.values()) == {SLOTS * sum(map(len, sample))} and any(f.shared for f in factors)


def test_a_trace_knows_rows_by_the_memory_that_they_lie_in():
    x = torch.arange(12.0).view(1, 6, 2)
    trace, index = TokenTrace(x, 6), torch.tensor([4, 1, 3])
    flat = x.view(-1, 2)
    with trace:
        taken, twice, masked = flat[index], flat[index][torch.tensor([2, 0])], flat[flat[:, 0] > 4]
        columns, pairs, copied = (
            flat[:, torch.tensor([0, 0, 1])],
            flat[index, torch.tensor([0, 1, 0])],
            (flat * 1)[index],
        )
    assert trace.tokens_of(taken).tolist() == [4, 1, 3] and trace.tokens_of(taken[1:]).tolist() == [1, 3]
    assert trace.tokens_of(twice).tolist() == [3, 4] and trace.tokens_of(masked).tolist() == [3, 4, 5]
    assert trace.tokens_of(x).tolist() == list(range(6))
    assert all(trace.tokens_of(other) is None for other in (columns, pairs[:, None], copied, taken + 1))


def test_places_of_layers_in_lists():
    place = listed("base_model.model.layers.3.mlp.experts.17.down_proj.lora_A.default")
    assert (place.list, place.number) == ("base_model.model.layers.3.mlp.experts", 17)
    assert place.matrix == "base_model.model.layers.3.mlp.experts.down_proj.lora_A.default"
    assert place.expert == "base_model.model.layers.3.mlp.experts.17"
    assert listed("model.layers.3.mlp.experts.down_proj.17") is None and listed("model.layers.3.mlp.up_proj") is None
