"""One batch's pass as a linear map, from changes of the layers' outputs to changes of what predicts the labels, and
back: what the products of a Gauss-Newton matrix are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gdig.errors import ModelError
from gdig.model.batches import Batch
from gdig.model.capture import to_device
from gdig.model.load import Model


class Linearized:
    """The model at one batch, to first order. Several directions share its forward pass.

    With y_l the output of layer l and h [M, H] the hidden states that predict the M labels (logits [M, V] of a model
    without a plain head), and J_l = dh / dy_l at the batch: `push` gives sum_l J_l x_l and `pull` J_l^T c. Forward
    products come from differentiating the backward pass by the vector it starts from, in which it is linear, so that
    any operation whose gradient has a gradient will do. Attention runs torch's plain way: its fused kernels have none.

    Attributes:
        picked: [M, H], without a graph.
        inputs: for each layer its input [B * L, I].

    Raises:
        ModelError: when a chosen layer takes no part in the pass.
    """

    def __init__(self, model: Model, batch: Batch) -> None:
        self._model = model
        self.inputs: list[torch.Tensor] = []
        self._outputs: list[torch.Tensor] = []
        found: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        positions = batch.targets[0]
        with torch.enable_grad(), _watched(model, found):
            ids = to_device(batch.input_ids, model.device).long()
            if model.head is None:
                hidden = model.module(input_ids=ids, use_cache=False).logits
            else:
                hidden = model.base(input_ids=ids, use_cache=False).last_hidden_state
            self._picked = hidden.flatten(0, 1).index_select(0, to_device(positions, hidden.device))
        missing = [layer.name for i, layer in enumerate(model.layers) if i not in found]
        if missing or not self._picked.requires_grad:
            names = ", ".join(missing or [layer.name for layer in model.layers])
            raise ModelError(f"filter_modules: no gradient reaches {names}; leave these out")
        for index in range(len(model.layers)):
            a, y = found[index]
            self.inputs.append(a.flatten(0, -2))
            self._outputs.append(y)
        self.picked = self._picked.detach()
        self._start = torch.zeros_like(self.picked, requires_grad=True)
        with torch.enable_grad():
            self._back = self._differentiate(self._picked, self._outputs, self._start, create_graph=True)

    def push(self, changes: Sequence[torch.Tensor]) -> torch.Tensor:
        """Change of `picked` [M, H], to first order, when each layer's output changes by changes[l] [B * L, O]."""
        at_outputs = [x.to(y.dtype).view_as(y) for x, y in zip(changes, self._outputs, strict=True)]
        (found,) = self._differentiate(self._back, [self._start], at_outputs)
        return found

    def pull(self, change: torch.Tensor) -> list[torch.Tensor]:
        """Gradient [B * L, O] at each layer's output of <picked, change>, change [M, H]."""
        found = self._differentiate(self._picked, self._outputs, change.to(self._picked.dtype))
        return [x.flatten(0, -2) for x in found]

    def _differentiate(
        self,
        of: torch.Tensor | Sequence[torch.Tensor],
        by: Sequence[torch.Tensor],
        start: torch.Tensor | Sequence[torch.Tensor],
        create_graph: bool = False,
    ) -> tuple[torch.Tensor, ...]:
        try:
            with _watched(self._model):  # with gradient checkpointing, blocks run again in here
                return torch.autograd.grad(of, by, start, retain_graph=True, create_graph=create_graph)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, NotImplementedError) as error:
            name, why = type(self._model.module).__name__, str(error).partition("\n")[0]
            raise ModelError(f"inversion: cg differentiates {name} twice, which it cannot be: {why}") from error


@contextmanager
def _watched(model: Model, found: dict[int, tuple[torch.Tensor, torch.Tensor]] | None = None) -> Iterator[None]:
    """Run the model so that it can be differentiated twice, its graph beginning at the first layer's output; keep each
    layer's input and output in `found`."""

    def hook(index: int) -> Callable:
        def forward(module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
            y = output if output.requires_grad else output.detach().requires_grad_()
            if found is None:
                return y
            if index in found:
                raise ModelError(f"{model.layers[index].name}: is used twice in a pass; leave it out")
            found[index] = args[0].detach().to(y.device), y
            return y

        return forward

    handles = [layer.module.register_forward_hook(hook(i)) for i, layer in enumerate(model.layers)]
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        for handle in handles:
            handle.remove()
