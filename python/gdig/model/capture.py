"""One forward and backward pass that hands each layer's inputs and output gradients to a sink, layer by layer.

No weight gradient is computed: the weights are frozen, and the graph begins at the first chosen layer's output. A
layer's inputs are kept by reference from the forward pass until its output gradient arrives, then both are dropped.
Nothing here reads a number back from the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from gdig.errors import ModelError
from gdig.model.batches import Batch
from gdig.model.compiled import CompiledPass
from gdig.model.head import head_loss
from gdig.model.load import Model
from gdig.model.memory import trial_batch
from gdig.philox import stream_key, uniform

Sink = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], None]
"""Called with a layer's index, a [B * L, I], d [B * L, O] (0 at pads), and keep float32 [B * L]: 1 for a token that
counts, 0 for a pad and for the tokens of an example whose loss is not finite."""


class _Tap(torch.autograd.Function):
    """Identity whose backward hands the layer's input and the gradient to a callback. The anchor makes the graph begin
    here when nothing below requires a gradient. The input is a saved tensor, not a closure's, so that gradient
    checkpointing drops it and makes it again."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, a: torch.Tensor, anchor: torch.Tensor, arrived: Callable) -> torch.Tensor:
        ctx.arrived = arrived
        ctx.save_for_backward(a)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, None, None, None]:
        (gradient,) = gradients
        (a,) = ctx.saved_tensors
        ctx.arrived(a, gradient)
        ctx.arrived = None
        return (gradient if ctx.needs_input_grad[0] else None), None, None, None


class GradientPass:
    """Runs batches through a model and gives each layer's (a, d) to a sink.

    Args:
        model: frozen model with its layers.
        loss_reduction: "mean" or "sum" of an example's loss over its target tokens.
        random_seed: when given, labels are drawn from the model's own distribution at the labelled positions (true
            Fisher); the draws depend on (random_seed, key of the line, position) alone.
        keep_heads: bytes for what the head gave of each batch, so that a second pass over the same batches spares it.
        mask_bad: give the sink zeros for a line whose loss is not finite, for sums over the batch. Without, such a
            line's a and d may hold anything, which a sum over each example alone does not mind.
    """

    def __init__(
        self,
        model: Model,
        loss_reduction: Literal["mean", "sum"] = "mean",
        random_seed: int | None = None,
        *,
        keep_heads: int = 0,
        mask_bad: bool = True,
    ) -> None:
        self.model = model
        self.loss_reduction = loss_reduction
        self.random_seed = random_seed
        self.mask_bad = mask_bad
        self._anchor = torch.zeros((), device=model.device, requires_grad=True)
        self._seen: set[int] = set()  # layers that a gradient reached in the running batch
        self._bad: torch.Tensor | None = None  # [B] lines of the running batch whose loss is not finite
        self._keep = torch.empty(0)
        # By the keys of a batch: labels drawn, since a second pass over the same examples is over the same labels; and
        # loss and gradient at the labelled positions, while there is room.
        self._drawn: dict[tuple[bytes, tuple[int, int]], torch.Tensor] = {}
        self._heads: dict[tuple[bytes, tuple[int, int]], tuple[torch.Tensor, torch.Tensor]] = {}
        self._room = keep_heads

    def run(self, batch: Batch, sink: Sink) -> torch.Tensor:
        """Pass one batch.

        Returns:
            Each line's loss: float32 [B] on the model's device. It is NaN or infinite for a line whose loss is; such a
            line has a = 0, d = 0 (with `mask_bad`).

        Raises:
            ModelError: when a chosen layer takes no part in the pass, or does not see every token.
        """
        self._seen.clear()
        shape = batch.shape
        device = self.model.device
        counts = batch.targets[2]
        ids = to_device(batch.input_ids, device).long()
        weights = 1.0 / np.maximum(counts, 1) if self.loss_reduction == "mean" else np.ones(len(counts))
        if self.model.compiled is not None:
            return self._run_compiled(self.model.compiled, batch, ids, weights, sink)
        with torch.enable_grad(), self._taps(sink, shape):
            hidden = self.model.hidden(ids).flatten(0, 1)
            at = to_device(batch.targets[0], hidden.device)
            picked = hidden.index_select(0, at)
            losses, gradient = self._loss(batch, picked.detach(), weights)
            if picked.requires_grad:
                picked.backward(gradient)
        missing = [layer.name for i, layer in enumerate(self.model.layers) if i not in self._seen]
        if missing:
            raise ModelError(f"filter_modules: no gradient reaches {', '.join(missing)}; leave these out")
        return losses.float()

    def _run_compiled(
        self, compiled: CompiledPass, batch: Batch, ids: torch.Tensor, weights: np.ndarray, sink: Sink
    ) -> torch.Tensor:
        """The same through the compiled pass, which gives the layers' (a, d) all at once."""
        if not compiled.checked:
            # What cannot be seen in a compiled pass: layers not reached, used twice, or by some tokens only.
            GradientPass(replace(self.model, compiled=None)).run(trial_batch(16, 8), lambda *_: None)
            compiled.checked = True
        hidden, inputs, zeros = compiled.forward(ids)
        flat = hidden.detach().flatten(0, 1)
        at = to_device(batch.targets[0], flat.device)
        losses, gradient = self._loss(batch, flat.index_select(0, at), weights)
        upstream = torch.zeros_like(flat).index_copy_(0, at, gradient).view_as(hidden)
        with torch.no_grad():
            for index, (a, d) in enumerate(zip(inputs, compiled.backward(hidden, zeros, upstream), strict=True)):
                assert d is not None  # the check has seen a gradient reach every layer
                a, d = a.detach().flatten(0, -2), d.flatten(0, -2)
                sink(index, self._without_bad(a, batch.shape), self._without_bad(d, batch.shape), self._keep)
        return losses.float()

    def _loss(self, batch: Batch, picked: torch.Tensor, weights: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Each line's loss, float64 [B], and the gradient at the labelled positions [M, H]; settles what counts."""
        _, labels, counts = batch.targets
        per_label = to_device(np.repeat(weights, counts), picked.device)
        nll, gradient = self._head(batch, picked, labels, per_label)
        losses = torch.segment_reduce(
            nll * per_label, "sum", lengths=to_device(counts, picked.device), unsafe=True, initial=0
        )
        self._settle(batch, losses, self.model.device)
        return losses, gradient

    def _head(
        self, batch: Batch, picked: torch.Tensor, labels: np.ndarray, weights: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and gradient at the labelled positions, from the head or as it gave them before."""
        key = (batch.keys.tobytes(), batch.shape)
        if key in self._heads:
            return self._heads[key]
        device, drawn, noise = picked.device, self._drawn.get(key), None
        if self.random_seed is not None and drawn is None:
            noise = to_device(self._noise(batch), device)
        nll, gradient, drawn = head_loss(self.model, picked, to_device(labels, device), weights, noise, drawn)
        if drawn is not None:
            self._drawn[key] = drawn
        size = nll.nbytes + gradient.nbytes
        if size <= self._room:
            self._room -= size
            self._heads[key] = nll, gradient
        return nll, gradient

    def _noise(self, batch: Batch) -> np.ndarray:
        """One number in (0, 1) for each labelled position: float64 [M]."""
        parts = [
            uniform(stream_key("labels", self.random_seed, int(key)), n)
            for key, n in zip(batch.keys, batch.targets[2].tolist(), strict=True)
        ]
        return np.concatenate(parts) if parts else np.zeros(0)

    def _settle(self, batch: Batch, losses: torch.Tensor, device: torch.device) -> None:
        """Find the lines to mask, and what counts."""
        self._keep = to_device(batch.keep, device)
        self._bad = None
        if not self.mask_bad:
            return
        bad = ~torch.isfinite(losses)
        # On the CPU looking costs nothing and spares the masking; on a device the masking is cheaper than to wait.
        if bad.device.type != "cpu" or bool(bad.any()):
            self._bad = bad.to(device)
            self._keep = self._without_bad(self._keep[:, None], batch.shape)[:, 0]

    def _without_bad(self, x: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
        """Zero the lines whose loss is not finite, so that no sum over the batch takes them in."""
        if self._bad is None:
            return x
        return x.unflatten(0, shape).masked_fill(self._bad.to(x.device)[:, None, None], 0).flatten(0, 1)

    @contextmanager
    def _taps(self, sink: Sink, shape: tuple[int, int]) -> Iterator[None]:
        """Hook the layers for one pass."""

        def hook(index: int) -> Callable:
            def arrived(a: torch.Tensor, gradient: torch.Tensor) -> None:
                if index in self._seen:
                    raise ModelError(f"{self.model.layers[index].name}: is used twice in a pass; leave it out")
                self._seen.add(index)
                a, d = a.flatten(0, -2), gradient.flatten(0, -2)
                with torch.no_grad():
                    sink(index, self._without_bad(a, shape), self._without_bad(d, shape), self._keep.to(a.device))

            def forward(module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
                a = args[0].detach().to(output.device)  # of a layer on another device, in a model spread over several
                if a.shape[:-1].numel() != (tokens := shape[0] * shape[1]):
                    name = self.model.layers[index].name
                    raise ModelError(
                        f"{name}: sees {a.shape[:-1].numel()} of the batch's {tokens} tokens (a routed expert?); such "
                        "layers cannot be chosen: leave them out with filter_modules"
                    )
                return _Tap.apply(output, a, self._anchor.to(output.device), arrived)

            return forward

        handles = [layer.module.register_forward_hook(hook(i)) for i, layer in enumerate(self.model.layers)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def to_device(x: np.ndarray | torch.Tensor, device: torch.device) -> torch.Tensor:
    """Put an array on a device; on CUDA by way of pinned memory, so that nobody waits for it."""
    tensor = torch.from_numpy(x) if isinstance(x, np.ndarray) else x
    if device.type != "cuda":
        return tensor.to(device)
    return (tensor if tensor.is_cuda else tensor.pin_memory()).to(device, non_blocking=True)
