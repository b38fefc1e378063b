"""One forward and backward pass that hands each layer's inputs and output gradients to a sink, layer by layer.

No weight gradient is computed: the weights are frozen, and the graph begins at the first chosen layer's output. A
layer's inputs are kept by reference from the forward pass until its output gradient arrives, then both are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from gdig.data.tokens import IGNORED
from gdig.errors import ModelError
from gdig.model.batches import Batch
from gdig.model.load import Model
from gdig.random import stream_key, uniform

Sink = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], None]
"""Called with a layer's index, a [B * L, I], d [B * L, O] (0 at pads), and keep float32 [B * L]: 1 for a token that
counts, 0 for a pad and for the tokens of an example whose loss is not finite."""

# Bounds the logits that exist at once: 2^25 float32 are 128 MiB.
_LOGITS = 1 << 25


class _Tap(torch.autograd.Function):
    """Identity whose backward hands the gradient to a callback. The anchor makes the graph begin here when nothing
    below requires a gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, anchor: torch.Tensor, arrived: Callable) -> torch.Tensor:
        ctx.arrived = arrived
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, None, None]:
        (gradient,) = gradients
        ctx.arrived(gradient)
        ctx.arrived = None
        return (gradient if ctx.needs_input_grad[0] else None), None, None


class GradientPass:
    """Runs batches through a model and gives each layer's (a, d) to a sink.

    Args:
        model: frozen model with its layers.
        loss_reduction: "mean" or "sum" of an example's loss over its target tokens.
        draw_seed: when given, labels are drawn from the model's own distribution at the labelled positions (true
            Fisher); the draws depend on (draw_seed, key of the line, position) alone.
    """

    def __init__(
        self, model: Model, loss_reduction: Literal["mean", "sum"] = "mean", draw_seed: int | None = None
    ) -> None:
        self.model = model
        self.loss_reduction = loss_reduction
        self.draw_seed = draw_seed
        self._anchor = torch.zeros((), device=model.device, requires_grad=True)
        self._seen: set[int] = set()  # layers that a gradient reached in the running batch
        self._bad: torch.Tensor | None = None  # lines of the running batch whose loss is not finite
        self._keep = torch.empty(0)

    def run(self, batch: Batch, sink: Sink) -> np.ndarray:
        """Pass one batch.

        Returns:
            Each line's loss: float32 [B]. It is NaN or infinite for a line whose loss is; such a line has a = 0, d = 0.

        Raises:
            ModelError: when a chosen layer takes no part in the pass, or does not see every token.
        """
        self._seen.clear()
        shape = batch.shape
        ids = batch.input_ids.to(self.model.device, non_blocking=True)
        lines, positions = (batch.labels[:, 1:] != IGNORED).nonzero(as_tuple=True)
        targets = batch.labels[lines, positions + 1]
        counts = torch.bincount(lines, minlength=len(ids)).clamp(min=1)
        with torch.enable_grad(), self._taps(sink, shape):
            hidden = self._hidden(ids)
            picked = hidden[lines.to(hidden.device), positions.to(hidden.device)]
            weights = 1.0 / counts[lines].double() if self.loss_reduction == "mean" else torch.ones(len(lines)).double()
            noise = None if self.draw_seed is None else torch.from_numpy(self._noise(batch, lines))
            nll, gradient = self._head_loss(picked.detach(), targets, weights, noise)
            losses = torch.zeros(len(ids), dtype=torch.float64).index_add_(0, lines, nll * weights)
            bad = ~torch.isfinite(losses)
            self._bad = bad.to(ids.device) if bool(bad.any()) else None
            keep = batch.keep.to(ids.device, non_blocking=True)
            self._keep = self._without_bad(keep[:, None], shape)[:, 0]
            if picked.requires_grad:
                picked.backward(gradient)
        missing = [layer.name for i, layer in enumerate(self.model.layers) if i not in self._seen]
        if missing:
            raise ModelError(f"filter_modules: no gradient reaches {', '.join(missing)}; leave these out")
        return losses.float().numpy()

    def _hidden(self, ids: torch.Tensor) -> torch.Tensor:
        """Last hidden states [B, L, H]; or, for a model that does more than a product behind them, the logits."""
        if self.model.head is None:
            return self.model.module(input_ids=ids, use_cache=False).logits
        return self.model.base(input_ids=ids, use_cache=False).last_hidden_state

    def _head_loss(
        self, picked: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, noise: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and its gradient at the labelled positions, some positions at a time.

        Returns:
            nll: float64 [M] on the CPU, of the data's own labels. gradient: [M, H] of the weighted loss (of the drawn
            labels when noise is given), dtype of `picked`.
        """
        gradient = torch.empty_like(picked)
        nll = torch.empty(len(picked), dtype=torch.float64)
        step = max(1, _LOGITS // self.model.vocab_size)
        for i in range(0, len(picked), step):
            part = slice(i, i + step)
            x = picked[part].detach().requires_grad_()
            logits = x if self.model.head is None else self.model.head(x)
            logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
            labels = targets[part].to(x.device)
            own = nn.functional.cross_entropy(logits, labels, reduction="none")
            loss = own
            if noise is not None:
                drawn = draw_labels(logits.detach(), noise[part].to(x.device))
                loss = nn.functional.cross_entropy(logits, drawn, reduction="none")
            (gradient[part],) = torch.autograd.grad((loss * weights[part].to(loss)).sum(), x)
            nll[part] = own.detach().double().cpu()
        return nll, gradient

    def _noise(self, batch: Batch, lines: torch.Tensor) -> np.ndarray:
        """One number in (0, 1) for each labelled position: float64 [M]."""
        counts = torch.bincount(lines, minlength=len(batch.rows)).tolist()
        parts = [
            uniform(stream_key("labels", self.draw_seed, int(key)), n)
            for key, n in zip(batch.keys, counts, strict=True)
        ]
        return np.concatenate(parts) if parts else np.zeros(0)

    def _without_bad(self, x: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
        """Zero the lines whose loss is not finite, so that no sum over the batch takes them in."""
        if self._bad is None:
            return x
        return x.unflatten(0, shape).masked_fill(self._bad[:, None, None], 0).flatten(0, 1)

    @contextmanager
    def _taps(self, sink: Sink, shape: tuple[int, int]) -> Iterator[None]:
        """Hook the layers for one pass."""

        def hook(index: int) -> Callable:
            def forward(module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
                a = args[0].detach().flatten(0, -2)
                if len(a) != (tokens := shape[0] * shape[1]):
                    name = self.model.layers[index].name
                    raise ModelError(
                        f"{name}: sees {len(a)} of the batch's {tokens} tokens (a routed expert?); such layers "
                        "cannot be chosen: leave them out with filter_modules"
                    )

                def arrived(gradient: torch.Tensor) -> None:
                    if index in self._seen:
                        raise ModelError(f"{self.model.layers[index].name}: is used twice in a pass; leave it out")
                    self._seen.add(index)
                    d = gradient.flatten(0, -2)
                    with torch.no_grad():
                        sink(index, self._without_bad(a, shape), self._without_bad(d, shape), self._keep)

                return _Tap.apply(output, self._anchor, arrived)

            return forward

        handles = [layer.module.register_forward_hook(hook(i)) for i, layer in enumerate(self.model.layers)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def draw_labels(logits: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Draw a label for each row of logits [M, V] by inverting the distribution function at noise [M] in (0, 1).

    Returns:
        int64 [M]. A row whose logits are not finite gets label 0 (its example has no finite loss either).
    """
    cumulative = torch.softmax(logits.double(), dim=-1).cumsum(-1)
    # The sum may fall short of 1 by rounding; scaled, a number in (0, 1) always lies below it.
    wanted = noise.double()[:, None] * cumulative[:, -1:]
    index = torch.searchsorted(cumulative, wanted.nan_to_num(0.0), right=True)[:, 0]
    return index.clamp(max=logits.shape[-1] - 1)
