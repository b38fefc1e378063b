"""A point of a model's graph that hands over a layer's input and output gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class Tap(torch.autograd.Function):
    """Identity whose backward pass gives the layer's input and the gradient to a callback.

    The anchor makes the graph begin here when no tensor below requires a gradient. The input is a saved tensor, not one
    of a closure, so that gradient checkpointing drops it and makes it again. The result is x's memory under another
    tensor, not a view of x: a model may add to it in place, as Falcon's blocks do.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, a: torch.Tensor, anchor: torch.Tensor, callback: Callable) -> torch.Tensor:
        """Return x, and keep the layer's input a."""
        ctx.callback = callback
        ctx.save_for_backward(a)
        return x.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, None, None, None]:
        """Give a and the gradient to the callback."""
        (gradient,) = gradients
        (a,) = ctx.saved_tensors
        ctx.callback(a, gradient)
        ctx.callback = None
        return (gradient if ctx.needs_input_grad[0] else None), None, None, None
