"""Products with the Gauss-Newton matrix of all layers together, over a sample of the pool.

G is what EK-FAC approximates: the mean over examples of g_e g_e^T, g_e the gradient of the example's loss

    sum_t w_e nll_t,    w_e = 1 / (target tokens) with loss_reduction=mean, 1 with sum

With labels drawn from the model this mean has a closed form, so no label is drawn: those of two positions are
independent and the gradient's mean is 0, which leaves

    G = (1/n) sum_e w_e^2 sum_t K_t^T (diag(p_t) - p_t p_t^T) K_t,    K_t = d logits_t / d weights

the Gauss-Newton matrix, its positions weighted by w_e^2 (not w_e, which would be the Gauss-Newton matrix of the mean
loss: in EK-FAC's eigenvalues, squares of the example's gradient, the factor is w_e^2 too). With the data's own labels
(use_empirical_fisher) it is the outer product itself.
A product costs each seed and row about four forward passes; what all seeds share, the pass itself, about two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from gdig.config.config import Config
from gdig.data.tokens import Example
from gdig.distributed.ranks import Ranks
from gdig.errors import ModelError
from gdig.influence.curvature import with_ones
from gdig.model.batches import Batch, make_batches
from gdig.model.causal_model import Model
from gdig.model.device import to_device
from gdig.model.head import head_fisher, head_loss
from gdig.model.host_copy import HostCopy
from gdig.model.linearized import Linearized
from gdig.model.memory import BatchRunner, resolve_token_batch_size, typical_length
from gdig.model.precision import float32_products
from gdig.progress import Progress

Vector = list[torch.Tensor]
"""A number for each weight of the layers: [O, J] for each layer."""


class GaussNewton:
    """Products with G + D over a sample of the pool.

    Args:
        model: the frozen model.
        sample: rows of the pool.
        shifts: D, a number for each layer.
        config: loss_reduction, use_empirical_fisher, token_batch_size, matmul_precision.
        progress: for what is said when memory is short.
        ranks: all cut the same batches; nothing else is shared.
    """

    def __init__(
        self,
        model: Model,
        sample: Sequence[Example],
        shifts: Sequence[float],
        config: Config,
        progress: Progress,
        ranks: Ranks | None = None,
    ) -> None:
        self._model, self._config, self._shifts = model, config, shifts
        self._dtype = torch.promote_types(model.dtype, torch.float32)
        ones = [
            torch.ones(layer.out_features, layer.width, dtype=self._dtype, device=layer.device)
            for layer in model.layers
        ]

        def trial(batch: Batch) -> None:
            self._add(batch, [ones], [[torch.zeros_like(x) for x in ones]], set())

        size = resolve_token_batch_size(config.token_batch_size, model.device, trial, typical_length(sample))
        size = (ranks or Ranks()).gather(size)[0]
        self.rows = len(sample)
        self._batches = make_batches(sample, size, window=model.window)
        self._batch_runner: BatchRunner = BatchRunner(size, model.device, progress, model.save_memory)

    def multiply(
        self, directions: Sequence[Vector], passed: Callable[[int], object] = lambda rows: None
    ) -> list[Vector]:
        """(G + D) p for each direction p, in the dtype of the sums. `passed` hears of rows as they are done.

        Raises:
            ModelError: when no row of the sample has a finite loss.
        """
        sums = [[torch.zeros_like(x) for x in p] for p in directions]
        good = 0

        def run(batch: Batch, added: set) -> HostCopy:
            with float32_products(self._config.matmul_precision):
                return HostCopy([self._add(batch, directions, sums, added)])

        for batch, losses in self._batch_runner.run(self._batches, run):
            good += int(np.isfinite(losses.numpy()[0]).sum())
            passed(len(batch.rows))
        if good == 0:
            raise ModelError("fit: no row of the cg_rows has a finite loss; is the model's checkpoint sound?")
        for p, total in zip(directions, sums, strict=True):
            for x, y, shift in zip(p, total, self._shifts, strict=True):
                y.div_(good).add_(x, alpha=shift)
        return sums

    def _add(self, batch: Batch, directions: Sequence[Vector], sums: Sequence[Vector], added: set) -> torch.Tensor:
        """Add the batch's part of the products, but for those (direction, layer) that `added` holds. Returns the
        losses [B]; lines whose loss is not finite add nothing."""
        model, config, layers = self._model, self._config, self._model.layers
        _, labels, counts = batch.targets
        linear = Linearized(model, batch)
        device = linear.predictors.device
        weights = 1.0 / np.maximum(counts, 1) if config.loss_reduction == "mean" else np.ones(len(counts))
        per_label = to_device(np.repeat(weights, counts), device)
        line = to_device(np.repeat(np.arange(len(counts)), counts), device)
        nll, gradient, _ = head_loss(model, linear.predictors, to_device(labels, device), per_label)
        losses = torch.zeros(len(counts), dtype=nll.dtype, device=device).index_add_(0, line, nll * per_label)
        bad = ~torch.isfinite(losses)
        mask = to_device(batch.token_mask, device).unflatten(0, batch.shape).masked_fill(bad[:, None], 0).flatten()

        def clean(x: torch.Tensor) -> torch.Tensor:
            """Zero where nothing counts; a product with 0 would keep what is not finite."""
            return x.masked_fill((mask == 0).to(x.device)[:, None], 0)

        inputs: dict[str, torch.Tensor] = {}
        for layer, a in zip(layers, linear.inputs, strict=True):
            if layer.input_name not in inputs:
                inputs[layer.input_name] = with_ones(clean(a.to(self._dtype)), layer.width)
        todo = [s for s in range(len(directions)) if any((s, i) not in added for i in range(len(layers)))]
        changes = [
            linear.push([inputs[layer.input_name] @ p.T for layer, p in zip(layers, directions[s], strict=True)])
            for s in todo
        ]
        if config.use_empirical_fisher:
            pulls = [_outer(gradient, u, line, len(counts)) for u in changes]
        else:
            pulls = head_fisher(model, linear.predictors, per_label.square(), changes)
        for s, change in zip(todo, pulls, strict=True):
            back = linear.pull(change.masked_fill(bad[line][:, None], 0))
            for i, (layer, d) in enumerate(zip(layers, back, strict=True)):
                if (s, i) not in added:
                    sums[s][i] += clean(d.to(self._dtype)).T @ inputs[layer.input_name]
                    added.add((s, i))
        return losses.float()


def _outer(gradient: torch.Tensor, change: torch.Tensor, line: torch.Tensor, lines: int) -> torch.Tensor:
    """g_e <g_e, u> for each example, at the positions [M, H] before the head."""
    wide = torch.promote_types(gradient.dtype, torch.float32)
    at = (gradient.to(wide) * change.to(wide)).sum(1)
    whole = torch.zeros(lines, dtype=wide, device=at.device).index_add_(0, line, at)
    return (gradient.to(wide) * whole[line, None]).to(gradient.dtype)
