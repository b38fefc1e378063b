"""Mixtures whose experts gdig cannot follow: an error that says what is needed, whatever else the blocks have."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gdig.errors import ModelError
from tests.support.tiny_models import llama, wrapped

EXPERTS, SLOTS, HIDDEN, WIDTH = 4, 2, 16, 8


class Fused(nn.Module):
    """Experts in parameters of three dimensions, without the interface of transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.w1 = nn.Parameter(torch.randn(EXPERTS, WIDTH, HIDDEN) * 0.3)
        self.w2 = nn.Parameter(torch.randn(EXPERTS, HIDDEN, WIDTH) * 0.3)

    def forward(self, x, chosen, weights):
        inner = torch.einsum("th,tkih->tki", x, self.w1[chosen]).relu()
        return torch.einsum("tki,tkhi,tk->th", inner, self.w2[chosen], weights)


class Listed(nn.ModuleList):
    """Experts in a list, which get rows of a copy of the block's input."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(HIDDEN, HIDDEN) for _ in range(EXPERTS))

    def forward(self, x, chosen, weights):
        copy, out = x * 1.0, torch.zeros_like(x)
        for number, expert in enumerate(self):
            token, slot = torch.where(chosen == number)
            out.index_add_(0, token, expert(copy[token]) * weights[token, slot, None])
        return out


class Block(nn.Module):
    """A router and experts of any name, with an MLP for all tokens beside them or without. Beyond a capacity, the
    experts get no tokens."""

    def __init__(self, experts, *, name="experts", router="gate", shared=False, capacity=None) -> None:
        super().__init__()
        self.names, self.capacity = (router, name), capacity
        self.add_module(router, nn.Linear(HIDDEN, EXPERTS, bias=False))
        self.add_module(name, experts())
        self.shared_expert = nn.Sequential(nn.Linear(HIDDEN, WIDTH), nn.ReLU(), nn.Linear(WIDTH, HIDDEN))
        self.shared = shared

    def forward(self, hidden):
        x = hidden.reshape(-1, HIDDEN)
        weights, chosen = self.get_submodule(self.names[0])(x).softmax(-1).topk(SLOTS, -1)
        if self.capacity is not None:
            of_expert = nn.functional.one_hot(chosen.flatten(), EXPERTS)
            place = (of_expert.cumsum(0) * of_expert).sum(1).view_as(chosen)  # among those of the expert, from 1
            weights = weights * (place <= self.capacity(chosen.numel()))
        out = self.get_submodule(self.names[1])(x, chosen, weights)
        return (out + self.shared_expert(x) if self.shared else out).view_as(hidden)


class Alone(nn.Module):
    """Router and weights of three dimensions in one module."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.experts_of = nn.Linear(HIDDEN, EXPERTS, bias=False), Fused()
        self.w1, self.w2 = self.experts_of.w1, self.experts_of.w2
        del self.experts_of

    def forward(self, hidden):
        x = hidden.reshape(-1, HIDDEN)
        weights, chosen = self.router(x).softmax(-1).topk(SLOTS, -1)
        return Fused.forward(self, x, chosen, weights).view_as(hidden)  # type: ignore[arg-type]


def with_block(make, **options):
    """Llama with a mixture in the last of its blocks, whose other MLPs can be chosen."""
    module = llama()
    torch.manual_seed(0)
    module.model.layers[-1].mlp = make()
    return wrapped(module, **options)[0]


@pytest.mark.parametrize("shared", [False, True], ids=["alone", "beside a shared expert"])
@pytest.mark.parametrize(
    ("experts", "name", "needed"),
    [
        (Fused, "experts", r"the interface of transformers 5 \(gate_up_proj"),
        (Fused, "mixture", r"the interface of transformers 5 \(gate_up_proj"),
        (Listed, "experts", r"linear modules in a list named experts, and a block that takes the rows"),
        (Listed, "ffns", r"linear modules in a list named experts, and a block that takes the rows"),
    ],
)
def test_unknown_experts_are_an_error_though_other_layers_could_be_chosen(experts, name, needed, shared):
    def block():
        return Block(experts, name=name, shared=shared)

    expected = rf"its experts \(model\.layers\.N\.mlp\.{name}\): expected {needed}.* choose layers=attention"
    for layers in (None, "all"):
        with pytest.raises(ModelError, match=expected):
            with_block(block, layers=layers)
    # What the message names does work, and no router is among it.
    assert all("self_attn" in layer.name for layer in with_block(block, layers="attention").layers)
    dense = with_block(block, filter_modules=r"mlp.\w+_proj").layers
    assert {layer.name.rpartition(".mlp.")[0] for layer in dense} == {"model.layers.0"}


@pytest.mark.parametrize("router", ["gate", "router", "moe_gate"])
def test_a_router_of_any_name_beside_experts_of_any_name(router):
    def block():
        return Block(Fused, name="mixture", router=router)

    with pytest.raises(ModelError, match=r"its experts \(model\.layers\.N\.mlp\.mixture\)"):
        with_block(block)


def test_weights_beside_the_router_in_its_own_module():
    with pytest.raises(ModelError, match=r"its experts \(model\.layers\.N\.mlp\): expected the interface"):
        with_block(Alone)


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.25, 1.99])
@pytest.mark.parametrize("name", ["experts", "ffns"])
def test_a_capacity_of_any_size_is_named(name, factor):
    """A line's later tokens can push out those of the next line, which looks like a model that is not causal."""

    def block():
        return Block(Fused, name=name, capacity=lambda slots: factor * slots / EXPERTS)

    with pytest.raises(ModelError, match=r"depend on the other lines of its batch.*drop tokens beyond a capacity"):
        with_block(block)


def test_a_capacity_of_a_fixed_number_of_tokens_is_named():
    with pytest.raises(ModelError, match=r"drop tokens beyond a capacity"):
        with_block(lambda: Block(Fused, capacity=lambda slots: 64))
