"""The model's pass compiled by torch.compile, for small models, which spend their time on launches, not on arithmetic.

torch compiles whole graphs, and a hook that runs in the backward pass would cut them. So a tensor of zeros is added to
each chosen layer's output: the zeros' gradient is the layer's output gradient. The forward pass returns the layers'
inputs beside the hidden states. So all inputs and output gradients of a batch exist at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from gdig.errors import ModelError
from gdig.model.layers import Layer
from gdig.model.masks import one_sequence_a_line

_TRIALS = ((3, 24), (5, 16))
"""Shapes (B, L) that the compiler sees first, whatever the data.

It makes its code from the first shapes, so that a batch runs the same code in every start.
"""


_Outputs = tuple[torch.Tensor, tuple[torch.Tensor, ...]]


class CompiledPass:
    """Forward and backward pass of a frozen model, each compiled as one graph for all shapes of batches.

    On CUDA a shape is recorded as a CUDA graph when it comes first, and replayed after that.

    Args:
        forward: from ids [B, L] to hidden states (or logits) [B, L, H], and the states of some layers.
        layers: the chosen layers. Each gets a hook that stays, and does nothing outside this pass.
        device: of the whole model.
    """

    def __init__(self, forward: Callable[[torch.Tensor], _Outputs], layers: Sequence[Layer], device: torch.device):
        self._inner = forward
        self._layers = list(layers)
        self._device = device
        self._zeros: list[torch.Tensor] | None = None  # set while a pass is traced
        self._inputs: list[Any] = []
        self._ready = False
        self.checked = False  # whether a plain pass has shown that gradients reach every layer
        mode = "reduce-overhead" if device.type == "cuda" else None
        self._compiled = torch.compile(self._forward, fullgraph=True, dynamic=True, mode=mode)
        for index, layer in enumerate(layers):
            layer.module.register_forward_hook(self._hook(index))

    def forward(self, ids: torch.Tensor) -> tuple[_Outputs, list[torch.Tensor], list[torch.Tensor]]:
        """Run the forward pass.

        Args:
            ids: int64 [B, L].

        Returns:
            outputs: hidden states or logits [B, L, H], and the states of some layers. inputs: the layers' inputs
            a [B, L, I]. zeros: [B, L, O], the tensors to differentiate by.

        Raises:
            ModelError: when torch cannot compile the model as one graph, or lacks a compiler.
        """
        if not self._ready:
            self._compile()
        return self._run(ids)

    def backward(
        self, hidden: torch.Tensor, zeros: Sequence[torch.Tensor], gradient: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        """The layers' output gradients d [B, L, O], from the gradient of the hidden states.

        The gradient is None for a layer that does not influence the hidden states.
        """
        return torch.autograd.grad(hidden, zeros, gradient, allow_unused=True)

    def _compile(self) -> None:
        try:
            for shape in _TRIALS:
                (hidden, _), _, zeros = self._run(torch.ones(shape, dtype=torch.int64, device=self._device))
                self.backward(hidden, zeros, torch.zeros_like(hidden))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # torch does not say what its compiler, and the compilers below it, raise
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise ModelError(f"torch_compile: the model cannot be compiled: {reason}; leave the option off") from error
        self._ready = True

    def _run(self, ids: torch.Tensor) -> tuple[_Outputs, list[torch.Tensor], list[torch.Tensor]]:
        if self._device.type == "cuda":
            torch.compiler.cudagraph_mark_step_begin()  # the tensors of the last pass may be overwritten
        shape = ids.shape
        zero = torch.zeros((), dtype=torch.float32, device=self._device)
        # One number, expanded to [B, L, O]: no memory is filled or read.
        zeros = [
            zero.to(_dtype(layer.module)).expand(*shape, layer.out_features).detach().requires_grad_()
            for layer in self._layers
        ]
        with one_sequence_a_line(compiling=True):
            outputs, inputs = self._compiled(ids, zeros)
        return outputs, inputs, zeros

    def _forward(self, ids: torch.Tensor, zeros: list[torch.Tensor]) -> tuple[_Outputs, list[torch.Tensor]]:
        self._zeros, self._inputs = zeros, [None] * len(zeros)
        outputs = self._inner(ids)
        inputs = self._inputs
        self._zeros, self._inputs = None, []
        return outputs, inputs

    def _hook(self, index: int) -> Callable:
        def forward(module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor | None:
            if self._zeros is None:
                return None
            self._inputs[index] = args[0]
            return output + self._zeros[index]

        return forward


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype
