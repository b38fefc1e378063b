"""Fused experts: a module that has the weights of all experts of a block in parameters of three dimensions.

transformers 5 gives nearly all of them one interface (`transformers.integrations.moe`). What differs from it has a
description here: how the module takes its tokens, and what lies between the two products.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gdig.model.layers import Expert, Layer
from gdig.model.routing import Combine, Routing, Take, grouped_product

Tap = Callable[["Matrix", torch.Tensor, torch.Tensor, Routing], torch.Tensor]
"""A function of a matrix, its inputs a [R, I] and outputs y [R, O] at the R routed rows, and their routing. It returns
y."""
Route = Callable[[torch.Tensor, torch.Tensor, int], Routing]
"""A function of the expert of each slot [M], the token of each slot [M], and the number of tokens."""


@dataclass(frozen=True)
class Matrix:
    """One matrix of every expert of a block.

    Attributes:
        parameter: the parameter of the module, [E, O, I]; [E, I, O] where `transposed`.
        in_features: I. out_features: O.
        transposed: how the parameter lies.
        bias: the parameter of the biases [E, O]; "" without.
    """

    parameter: str
    in_features: int
    out_features: int
    transposed: bool
    bias: str


@dataclass(frozen=True)
class Experts:
    """The fused experts of a block.

    Attributes:
        name: of the module in the model. module: the module.
        count: E.
        matrices: of the first product (gate and up together, or up alone), and of the second.
        weighted: whether the module itself weights the experts' outputs and adds them up. Otherwise it takes all tokens
            once for each expert, [E * T, H], with zeros where the expert does not see the token (Llama 4).
    """

    name: str
    module: nn.Module
    count: int
    matrices: tuple[Matrix, Matrix]
    weighted: bool = True

    def name_of(self, matrix: Matrix) -> str:
        """What the names of the layers of a matrix begin with."""
        return f"{self.name}.{matrix.parameter}"

    def layers(self, slots: int) -> list[Layer]:
        """The layers of all experts, matrix by matrix."""
        return [
            Layer(
                f"{self.name_of(m)}.{number}", self.module, m.in_features, m.out_features, bool(m.bias),
                expert=Expert(self.name_of(m), number, self.count, slots, m.parameter),
            )
            for m in self.matrices
            for number in range(self.count)
        ]  # fmt: skip

    def forward(self, arguments: tuple, named: dict[str, Any], route: Route, tap: Tap) -> torch.Tensor:
        """What the module returns, computed from the rows of `route` alone; `tap` sees both products.

        Args:
            arguments: of the module's forward, by position. named: by name.
            route: decides the rows, and sorts them by expert.
            tap: sees inputs and outputs of each matrix.
        """
        return (self._weighted if self.weighted else self._repeated)(*arguments, route=route, tap=tap, **named)

    def _weighted(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor, *, route: Route,
        tap: Tap,
    ) -> torch.Tensor:  # fmt: skip
        tokens, slots = top_k_index.shape
        of_slot = torch.arange(tokens * slots, device=hidden_states.device) // slots
        routing = route(top_k_index.reshape(-1), of_slot, tokens)
        y = self._products(Take.apply(hidden_states, routing), routing, tap)
        if getattr(self.module, "has_post_expert_norm", False):
            y = self.module.post_expert_norm(y)  # type: ignore[operator]
        dtype = torch.promote_types(y.dtype, top_k_weights.dtype)
        return Combine.apply(y.to(dtype), top_k_weights.to(dtype), routing).to(hidden_states.dtype)

    def _repeated(self, hidden_states: torch.Tensor, *, route: Route, tap: Tap) -> torch.Tensor:
        x = hidden_states.reshape(-1, hidden_states.shape[-1])
        slot = torch.arange(len(x), device=x.device)
        tokens = len(x) // self.count
        # A row of zeros has a product of zeros, and passes no gradient on.
        experts = torch.where((x != 0).any(1), slot // tokens, self.count)
        routing = route(experts, slot % tokens, tokens)
        y = self._products(x.index_select(0, routing.rows), routing, tap)
        return y.new_zeros(len(x), y.shape[1]).index_copy(0, routing.rows, y)

    def _products(self, x: torch.Tensor, routing: Routing, tap: Tap) -> torch.Tensor:
        first, second = self.matrices
        return self._product(second, self._activate(self._product(first, x, routing, tap)), routing, tap)

    def _activate(self, y: torch.Tensor) -> torch.Tensor:
        module: Any = self.module
        if not self.weighted:
            gate, up = y.chunk(2, dim=-1)
            return up * module.act_fn(gate)
        return module._apply_gate(y) if module.has_gate else module.act_fn(y)

    def _product(self, matrix: Matrix, x: torch.Tensor, routing: Routing, tap: Tap) -> torch.Tensor:
        weight = getattr(self.module, matrix.parameter)
        x = x.to(weight.dtype)
        y = grouped_product(x, weight.mT if matrix.transposed else weight, routing)
        if matrix.bias:
            y = y + getattr(self.module, matrix.bias).index_select(0, routing.experts)
        return tap(matrix, x, y, routing)


def chosen_experts(model: nn.Module, layers: Sequence[Layer]) -> tuple[Experts, ...]:
    """The modules of fused experts that some layers are of."""
    modules = {layer.module for layer in layers if layer.expert is not None}
    described = (as_experts(name, module) for name, module in model.named_modules() if module in modules)
    return tuple(experts for experts in described if experts is not None)


def as_experts(name: str, module: Any) -> Experts | None:
    """Describe a module of fused experts; None for any other module, and for a form that has no description.

    Args:
        name: of the module in its model.
        module: the module.
    """
    interface = all(hasattr(module, x) for x in ("has_gate", "has_bias", "is_transposed", "_apply_gate"))
    llama4 = type(module).__name__ == "Llama4TextExperts"
    if not interface and not llama4:
        return None
    transposed = llama4 or bool(module.is_transposed)
    bias = interface and module.has_bias
    names = ("gate_up_proj" if llama4 or module.has_gate else "up_proj", "down_proj")
    matrices = []
    for parameter in names:
        weight = getattr(module, parameter, None)
        # Quantized weights lie in other shapes, or in parts.
        if not isinstance(weight, torch.Tensor) or weight.dim() != 3 or weight.element_size() < 2:
            return None
        inputs, outputs = weight.shape[1:] if transposed else weight.shape[:0:-1]
        matrices.append(Matrix(parameter, inputs, outputs, transposed, f"{parameter}_bias" if bias else ""))
    if getattr(module, "_is_expert_parallel", False):
        return None
    count = getattr(module, names[0]).shape[0]
    return Experts(name, module, count, (matrices[0], matrices[1]), weighted=interface)
