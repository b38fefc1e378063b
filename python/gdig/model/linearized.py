"""One batch's pass as a linear map, from which the products of a Gauss-Newton matrix are made.

The map goes from changes of the layers' outputs to changes of the hidden states that predict the labels, and back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gdig.errors import LayerError, ModelError
from gdig.model.batches import Batch
from gdig.model.causal_model import Model
from gdig.model.device import to_device
from gdig.model.load_trial import sees_all


class Linearized:
    """The model at one batch, to first order. Several directions share its forward pass.

    y_l is the output of layer l. h [M, H] are the hidden states that predict the M labels, or logits [M, V] of a model
    without a plain head. With J_l = dh / dy_l at the batch, `push` gives sum_l J_l x_l, and `pull` gives J_l^T c.

    `push` differentiates the backward pass by the vector that it starts from, in which it is linear. So every operation
    of the model must have a gradient that has a gradient. torch's fused attention has none; attention runs unfused.

    Attributes:
        predictors: h [M, H], without a graph.
        inputs: for each layer its input [B * L, I].

    Raises:
        ModelError: when no gradient reaches a chosen layer.
    """

    def __init__(self, model: Model, batch: Batch) -> None:
        self._model = model
        self._shape = batch.shape
        self.inputs: list[torch.Tensor] = []
        self._outputs: list[torch.Tensor] = []
        inputs_outputs: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        positions = batch.targets[0]
        with torch.enable_grad(), _hooks(model, batch.shape, inputs_outputs):
            ids = to_device(batch.input_ids, model.device).long()
            if model.head is None:
                hidden = model.module(input_ids=ids, use_cache=False).logits
            else:
                hidden = model.base(input_ids=ids, use_cache=False).last_hidden_state
            self._predictors = hidden.flatten(0, 1).index_select(0, to_device(positions, hidden.device))
        missing = [layer.name for i, layer in enumerate(model.layers) if i not in inputs_outputs]
        if missing or not self._predictors.requires_grad:
            names = ", ".join(missing or [layer.name for layer in model.layers])
            raise LayerError(f"filter_modules: no gradient reaches {names}; leave these out")
        for index in range(len(model.layers)):
            a, y = inputs_outputs[index]
            self.inputs.append(a.flatten(0, -2))
            self._outputs.append(y)
        self.predictors = self._predictors.detach()
        self._start = torch.zeros_like(self.predictors, requires_grad=True)
        with torch.enable_grad():
            self._back = self._differentiate(self._predictors, self._outputs, self._start, create_graph=True)

    def push(self, changes: Sequence[torch.Tensor]) -> torch.Tensor:
        """The change of `predictors` [M, H], to first order, when layer l's output changes by changes[l] [B * L, O]."""
        at_outputs = [x.to(y.dtype).view_as(y) for x, y in zip(changes, self._outputs, strict=True)]
        (product,) = self._differentiate(self._back, [self._start], at_outputs)
        return product

    def pull(self, change: torch.Tensor) -> list[torch.Tensor]:
        """The gradient [B * L, O] of <predictors, change> at each layer's output; change [M, H]."""
        gradients = self._differentiate(self._predictors, self._outputs, change.to(self._predictors.dtype))
        return [d.flatten(0, -2) for d in gradients]

    def _differentiate(
        self,
        of: torch.Tensor | Sequence[torch.Tensor],
        by: Sequence[torch.Tensor],
        start: torch.Tensor | Sequence[torch.Tensor],
        create_graph: bool = False,
    ) -> tuple[torch.Tensor, ...]:
        try:
            with _hooks(self._model, self._shape):  # with gradient checkpointing, blocks run again in here
                return torch.autograd.grad(of, by, start, retain_graph=True, create_graph=create_graph)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, NotImplementedError) as error:
            name, why = type(self._model.module).__name__, str(error).partition("\n")[0]
            raise ModelError(f"inversion: cg cannot differentiate {name} twice: {why}; use inversion=ekfac") from error


class _Alias(torch.autograd.Function):
    """Identity. The result is no view of x: a model may add to it in place, as Falcon's blocks do, and x stays y_l."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return gradients[0]


@contextmanager
def _hooks(
    model: Model, shape: tuple[int, int], inputs_outputs: dict[int, tuple[torch.Tensor, torch.Tensor]] | None = None
) -> Iterator[None]:
    """In the block, run the model on a batch of this shape so that it can be differentiated twice. The graph begins at
    the first layer's output. Put each layer's input and output into `inputs_outputs`."""

    def hook(index: int) -> Callable:
        def forward(module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor | None:
            if not sees_all(args[0], shape):
                return None  # as DoRA's call with an identity matrix, for a norm that has no gradient
            y = output if output.requires_grad else output.detach().requires_grad_()
            if inputs_outputs is None:
                return _Alias.apply(y)
            if index in inputs_outputs:
                raise LayerError(f"{model.layers[index].name}: is used twice in a pass; leave it out")
            inputs_outputs[index] = args[0].detach().to(y.device), y
            return _Alias.apply(y)

        return forward

    handles = [layer.module.register_forward_hook(hook(i)) for i, layer in enumerate(model.layers)]
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        for handle in handles:
            handle.remove()
