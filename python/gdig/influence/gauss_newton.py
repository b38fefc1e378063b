"""Products with the Gauss-Newton matrix of all layers together, over a sample of the pool.

EK-FAC approximates G: the mean over examples of g_e g_e^T. g_e is the gradient of the example's loss

    sum_t w_e nll_t,    w_e = 1 / (target tokens) with loss_reduction=mean, 1 with sum

For labels that are drawn from the model, the mean has a closed form. The labels of two positions are independent, and
the mean of the gradient is 0. So

    G = (1/n) sum_e w_e^2 sum_t K_t^T (diag(p_t) - p_t p_t^T) K_t,    K_t = d logits_t / d weights

G is the Gauss-Newton matrix with the weight w_e^2 at each position. The weight w_e would give the Gauss-Newton matrix
of the mean loss. EK-FAC's eigenvalues are squares of an example's gradient, so they have the factor w_e^2 too. For the
labels of the data (use_empirical_fisher), G is the outer product itself.

A product costs about four forward passes for each seed and row. The pass that all seeds share costs about two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gdig.config.config import Config
from gdig.data.tokens import Example
from gdig.distributed.ranks import Ranks
from gdig.errors import NotFiniteError
from gdig.influence.curvature_sums import with_ones
from gdig.model.batch_runner import BatchRunner
from gdig.model.batch_size import resolve_token_batch_size, typical_length
from gdig.model.batches import Batch, content_digest, make_batches
from gdig.model.causal_model import Model
from gdig.model.device import to_device
from gdig.model.head import head_fisher, head_loss
from gdig.model.host_copy import HostCopy
from gdig.model.linearized import Linearized
from gdig.model.precision import float32_products
from gdig.progress import Progress

Vector = list[torch.Tensor]
"""A number for each weight of the layers: a tensor [O, J] for each layer."""


@dataclass
class Product:
    """A product (G + D) p that is being added up, batch by batch.

    Attributes:
        sums: the sum over the rows of the first batches, in the dtype of the sums.
        n_batches: how many batches the sum holds.
        n_finite: how many rows of these batches have a finite loss.
    """

    sums: Vector
    n_batches: int = 0
    n_finite: int = 0

    @classmethod
    def begin(cls, p: Vector) -> Product:
        """Begin at 0."""
        return cls([torch.zeros_like(x) for x in p])


class GaussNewton:
    """Products with G + D over a sample of the pool.

    Args:
        model: the frozen model.
        sample: rows of the pool.
        shifts: D, a number for each layer.
        config: loss_reduction, use_empirical_fisher, token_batch_size, matmul_precision.
        progress: prints warnings when memory runs out.
        ranks: the ranks that make the same batches. They share nothing else.

    Attributes:
        rows: the number of rows in the sample.
        token_batch_size: the resolved option.
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
        vector_of_ones = [
            torch.ones(layer.out_features, layer.width, dtype=self._dtype, device=layer.device)
            for layer in model.layers
        ]

        def trial(batch: Batch) -> None:
            self._add(batch, [vector_of_ones], [[torch.zeros_like(x) for x in vector_of_ones]], set())

        size = resolve_token_batch_size(config.token_batch_size, model, trial, typical_length(sample))
        self.token_batch_size = (ranks or Ranks()).gather(size)[0]
        self.rows = len(sample)
        self._batches = make_batches(
            sample, self.token_batch_size, window=model.window, rotary_switch=model.rotary_switch
        )
        self._batch_runner: BatchRunner = BatchRunner(self.token_batch_size, model.device, progress, model.save_memory)

    @property
    def made_from(self) -> dict[str, Any]:
        """What a sum depends on besides its direction, the model and the options: JSON values by name."""
        return {"batches": content_digest(self._batches), "token_batch_size": self.token_batch_size}

    @property
    def n_batches(self) -> int:
        """The number of batches of a whole product."""
        return len(self._batches)

    def rows_of(self, n_batches: int) -> int:
        """Return the number of rows in the first batches."""
        return sum(len(batch.rows) for batch in self._batches[:n_batches])

    def multiply(
        self,
        directions: Sequence[Vector],
        callback: Callable[[int], object] = lambda rows: None,
        begun: Sequence[Product] | None = None,
        keep: Callable[[], object] = lambda: None,
    ) -> list[Vector]:
        """Multiply G + D with directions. A product depends on its own direction alone.

        Args:
            directions: the directions p.
            callback: called after each batch with its number of rows, times the products that it is added to.
            begun: changed; a product of each direction, some batches of which may be added already. None: all begin.
            keep: called when a batch is added to all products that it belongs to.

        Returns:
            (G + D) p for each direction p, in the dtype of the sums: the sums of `begun`.

        Raises:
            ModelError: if no row of the sample has a finite loss.
        """
        products = [Product.begin(p) for p in directions] if begun is None else begun
        for number, batch in enumerate(self._batches):
            missing = [i for i, product in enumerate(products) if product.n_batches == number]
            if not missing:
                continue
            some, sums = [directions[i] for i in missing], [products[i].sums for i in missing]

            def run(piece: Batch, added: set, some: list[Vector] = some, sums: list[Vector] = sums) -> HostCopy:
                with float32_products(self._config.matmul_precision):
                    return HostCopy([self._add(piece, some, sums, added)])

            n_finite = 0
            for piece, losses in self._batch_runner.run([batch], run):
                n_finite += int(np.isfinite(losses.numpy()[0]).sum())
                callback(len(piece.rows) * len(missing))
            for i in missing:
                products[i].n_batches += 1
                products[i].n_finite += n_finite
            keep()
        for p, product in zip(directions, products, strict=True):
            if product.n_finite == 0:
                raise NotFiniteError(
                    f"fit: no row of the cg_rows has a finite loss ({self.rows} rows); check the model's weights"
                )
            for x, y, shift in zip(p, product.sums, self._shifts, strict=True):
                y.div_(product.n_finite).add_(x, alpha=shift)
        return [product.sums for product in products]

    def _add(self, batch: Batch, directions: Sequence[Vector], sums: Sequence[Vector], added: set) -> torch.Tensor:
        """Add the batch to the products, and note each (direction, layer) in `added`. Skip the noted ones.

        Returns:
            The losses, float32 [B]. A line whose loss is not finite adds nothing.
        """
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
            """Fill pads with 0. A product with 0 would leave a number that is not finite."""
            return x.masked_fill((mask == 0).to(x.device)[:, None], 0)

        inputs: dict[str, torch.Tensor] = {}
        for layer, a in zip(layers, linear.inputs, strict=True):
            if layer.input_name not in inputs:
                inputs[layer.input_name] = with_ones(clean(a.to(self._dtype)), layer.width)
        remaining = [s for s in range(len(directions)) if any((s, i) not in added for i in range(len(layers)))]
        changes = [
            linear.push([inputs[layer.input_name] @ p.T for layer, p in zip(layers, directions[s], strict=True)])
            for s in remaining
        ]
        if config.use_empirical_fisher:
            pulls = [_outer(gradient, u, line, len(counts)) for u in changes]
        else:
            pulls = head_fisher(model, linear.predictors, per_label.square(), changes)
        for s, change in zip(remaining, pulls, strict=True):
            back = linear.pull(change.masked_fill(bad[line][:, None], 0))
            for i, (layer, d) in enumerate(zip(layers, back, strict=True)):
                if (s, i) not in added:
                    sums[s][i] += clean(d.to(self._dtype)).T @ inputs[layer.input_name]
                    added.add((s, i))
        return losses.float()


def _outer(gradient: torch.Tensor, change: torch.Tensor, line: torch.Tensor, lines: int) -> torch.Tensor:
    """g_e <g_e, u> for each example, at the positions [M, H] before the head."""
    dtype = torch.promote_types(gradient.dtype, torch.float32)
    products = (gradient.to(dtype) * change.to(dtype)).sum(1)
    sums = torch.zeros(lines, dtype=dtype, device=products.device).index_add_(0, line, products)
    return (gradient.to(dtype) * sums[line, None]).to(gradient.dtype)
