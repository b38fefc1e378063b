"""Tokens sorted by the expert that sees them, and the product of each with its expert's matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from gdig.ops import ExpertRows


@dataclass(frozen=True)
class Routing:
    """The rows of a batch [B, L] that experts see: sorted by expert, and then by their token.

    A slot is a token together with one of the experts that the router sends it to.

    Attributes:
        n_tokens: T = B * L, pads included.
        rows: int64 [R], the slot of each row. tokens: int64 [R], its place in the flattened batch.
        experts: int64 [R], its expert.
        bounds: expert e has the rows bounds[e] .. bounds[e + 1] - 1.
        offsets: int64 [E, B + 1] on the CPU, where the rows of each expert and line begin.
        ends: int32 [E] on the device, where the rows of each expert end.
    """

    n_tokens: int
    rows: torch.Tensor
    tokens: torch.Tensor
    experts: torch.Tensor
    bounds: list[int]
    offsets: torch.Tensor
    ends: torch.Tensor

    @cached_property
    def expert_rows(self) -> ExpertRows:
        """Whose the rows are."""
        return ExpertRows(self.offsets)

    @cached_property
    def by_token(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The rows sorted by their slots, int64 [R]; and where those of each token begin, int64 [T]."""
        order = self.rows.argsort()
        ordered = self.tokens.index_select(0, order)
        return order, torch.searchsorted(ordered, torch.arange(self.n_tokens, device=order.device))

    def of_experts(self, numbers: Sequence[int]) -> Routing:
        """The rows of some experts alone, by their numbers, rising."""
        if len(numbers) == len(self.bounds) - 1:
            return self
        rows = torch.cat([torch.arange(self.bounds[n], self.bounds[n + 1]) for n in numbers]).to(self.rows.device)
        counts = self.offsets[numbers].diff()
        ends = counts.sum(1).cumsum(0)
        offsets = torch.cat([torch.zeros(len(numbers), 1, dtype=torch.int64), counts.cumsum(1)], dim=1)
        offsets[1:] += ends[:-1, None]
        return Routing(
            self.n_tokens, self.rows[rows], self.tokens[rows], self.experts[rows], [0, *ends.tolist()], offsets,
            ends.to(rows.device, torch.int32),
        )  # fmt: skip


def route(
    experts: torch.Tensor, tokens: torch.Tensor, count: int, lines: int, length: int, real: torch.Tensor | None = None
) -> Routing:
    """Sort slots by their experts. Reads E * B numbers back from the device.

    Args:
        experts: int64 [M], the expert of each slot. A number of `count` or more stands for none.
        tokens: int64 [M], the place of each slot's token in the flattened batch; rising for the slots of one expert.
        count: E.
        lines: B. length: L.
        real: bool [B * L], the tokens that are no pads. None: all. Pads go to no expert: nothing depends on them.
    """
    absent = experts >= count
    if real is not None:
        absent = absent | ~real.index_select(0, tokens)
    experts, order = torch.where(absent, count, experts).sort(stable=True)
    tokens = tokens.index_select(0, order)
    by_line = torch.bincount(experts * lines + tokens // length, minlength=(count + 1) * lines)
    per_line = by_line[: count * lines].view(count, lines).cpu()
    ends = per_line.sum(1).cumsum(0)
    rows = int(ends[-1])
    offsets = torch.cat([torch.zeros(count, 1, dtype=torch.int64), per_line.cumsum(1)], dim=1)
    offsets[1:] += ends[:-1, None]
    on_device = ends.to(order.device, torch.int32)
    bounds = [0, *ends.tolist()]
    return Routing(lines * length, order[:rows], tokens[:rows], experts[:rows], bounds, offsets, on_device)


def route_alone(tokens: torch.Tensor, lines: int, length: int, real: torch.Tensor) -> tuple[torch.Tensor, Routing]:
    """Sort the rows of one expert by their tokens.

    Args:
        tokens: int64 [n], the place of each row in the flattened batch, in any order.
        lines: B. length: L.
        real: bool [B * L], the tokens that are no pads.

    Returns:
        The numbers of the rows that are no pads, sorted: int64 [R]; and their routing.
    """
    tokens, order = tokens.sort(stable=True)
    routing = route(torch.zeros_like(tokens), tokens, 1, lines, length, real)
    return order.index_select(0, routing.rows), routing


def route_to_first(experts: torch.Tensor, tokens: torch.Tensor, seen: int, *, slots: int) -> Routing:
    """Send `slots` slots a token to the first expert: for shapes without numbers, where what counts is bytes a slot."""
    rows = torch.arange(seen * slots, device=experts.device)
    return Routing(seen, rows, tokens[: len(rows)], torch.zeros_like(rows), [0, len(rows)], torch.empty(0), rows)


class Take(torch.autograd.Function):
    """hidden [T, H] at the tokens of the rows: [R, H]. The gradient of a token is a sum over its slots in order."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, routing: Routing) -> torch.Tensor:
        """Return the rows."""
        ctx.routing = routing
        return hidden.index_select(0, routing.tokens)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Return the gradient of hidden."""
        return _sum_by_token(gradients[0], ctx.routing), None


class Combine(torch.autograd.Function):
    """The rows y [R, H], each times the gate of its slot, added up for each token: [T, H], the slots in order.

    The gates [T, slots] have the dtype of y. One pass over y makes the result, where a product, a copy to the slots and
    a sum would take three.
    """

    @staticmethod
    def forward(ctx: Any, y: torch.Tensor, gates: torch.Tensor, routing: Routing) -> torch.Tensor:
        """Return the sums."""
        own = gates.reshape(-1).index_select(0, routing.rows)
        ctx.routing, ctx.shape = routing, gates.shape
        ctx.save_for_backward(y, own)
        return _sum_by_token(y, routing, own)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        """Return the gradients of the rows and of the gates."""
        (y, own), routing = ctx.saved_tensors, ctx.routing
        gradient = gradients[0].index_select(0, routing.tokens)
        of_gates = None
        if ctx.needs_input_grad[1]:
            of_gates = own.new_zeros(ctx.shape).view(-1)
            of_gates = of_gates.index_copy_(0, routing.rows, (gradient * y).sum(1)).view(ctx.shape)
        return gradient.mul_(own[:, None]), of_gates, None


def _sum_by_token(x: torch.Tensor, routing: Routing, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Add up the rows x [R, H], times their weights [R], for each token: [T, H].

    A sum over a token's slots has one order. Adding rows to their tokens would have none on a GPU.
    """
    if not len(x):
        return x.new_zeros(routing.n_tokens, x.shape[1])
    order, starts = routing.by_token
    weights = None if weights is None else weights.index_select(0, order)
    return torch.nn.functional.embedding_bag(order, x, starts, mode="sum", per_sample_weights=weights)


class _Product(torch.autograd.Function):
    """The product of each row with the matrix of its expert. The weights are frozen: x alone has a gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, routing: Routing) -> torch.Tensor:
        ctx.weight, ctx.routing = weight, routing
        return _grouped(x, weight.mT, routing)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return _grouped(gradients[0], ctx.weight, ctx.routing), None, None


def grouped_product(x: torch.Tensor, weight: torch.Tensor, routing: Routing) -> torch.Tensor:
    """y_r = W_e x_r for each row r and its expert e.

    Args:
        x: [R, I], sorted by expert. weight: [E, O, I], frozen.
        routing: of the rows.

    Returns:
        [R, O].
    """
    return _Product.apply(x, weight, routing)


def _grouped(x: torch.Tensor, weight: torch.Tensor, routing: Routing) -> torch.Tensor:
    """x_r W_e of each row: x [R, I], weight [E, I, O]."""
    fused = _fused(x, weight)
    if fused is not None:
        return fused(x.contiguous(), weight, offs=routing.ends)
    out = x.new_empty(len(x), weight.shape[2])
    for e, (first, last) in enumerate(zip(routing.bounds, routing.bounds[1:], strict=False)):
        if first < last:
            torch.mm(x[first:last], weight[e], out=out[first:last])
    return out


def _fused(x: torch.Tensor, weight: torch.Tensor) -> Callable | None:
    """torch's grouped product, where one launch serves all experts and rows begin at multiples of 16 bytes."""
    if x.device.type != "cuda" or x.dtype != torch.bfloat16 or torch.cuda.get_device_capability(x.device) < (9, 0):
        return None
    fits = len(x) > 0 and weight.shape[1] % 8 == 0 and weight.shape[2] % 8 == 0
    return getattr(torch.nn.functional, "grouped_mm", None) if fits else None
