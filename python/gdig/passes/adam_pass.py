"""LESS's features (arXiv 2402.04333): where Adam would go for each row, and its cosine with each seed's gradient."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from gdig.config.config import Config
from gdig.data.tokens import Example
from gdig.errors import ModelError
from gdig.influence.curvature import with_ones
from gdig.model.batches import make_batches
from gdig.model.capture import GradientPass
from gdig.model.causal_model import Model
from gdig.model.layers import Layer
from gdig.model.optimizer import Adam, Moments
from gdig.model.precision import float32_products
from gdig.ops import Segments
from gdig.passes.row_pass import Add, first_batch_size, sum_dtype
from gdig.passes.sketch import make_projection
from gdig.philox import rademacher, stream_key

_ENTRIES = 1 << 25
"""Entries of the gradients that are in memory at once, one matrix an example: a row's direction is not linear in its
gradient, so that the whole of it is needed."""


@dataclass(frozen=True)
class _Sides:
    """Two-sided projection of a layer's gradient G [O, J] to P G Q^T; a side that is None is kept as it is."""

    p: torch.Tensor | None
    q: torch.Tensor | None

    @classmethod
    def make(cls, layer: Layer, side: int, random_seed: int, dtype: torch.dtype) -> _Sides:
        def one(which: str, width: int) -> torch.Tensor | None:
            if width <= side:
                return None
            signs = rademacher(stream_key(layer.name, f"features {which}", random_seed), side, width)
            return torch.from_numpy(signs).to(layer.device, dtype) / math.sqrt(side)

        return cls(one("output", layer.out_features), one("input", layer.width))

    def apply(self, g: torch.Tensor) -> torch.Tensor:
        """Of g [n, O, J]: [n, K]."""
        g = g if self.p is None else self.p @ g
        g = g if self.q is None else g @ self.q.T
        return g.flatten(1)


def trained_layers(model: Model, adam: Adam) -> tuple[Model, list[Moments]]:
    """The model with those of its layers that the optimizer trained, and their moments.

    Raises:
        ModelError: when it trained none of them.
    """
    names = {id(p): name for name, p in model.module.named_parameters()}
    found = [(layer, adam.of_layer(layer, names)) for layer in model.layers]
    kept = [(layer, moments) for layer, moments in found if moments is not None]
    if not kept:
        shown = ", ".join(list(adam.moments)[:3])
        raise ModelError(
            f"{adam.file}: none of the layers ({model.layers[0].name} .. {model.layers[-1].name}) was trained; it "
            f"holds moments of {len(adam.moments)} parameters ({shown}, ...); choose layers with filter_modules"
        )
    return replace(model, layers=[layer for layer, _ in kept]), [moments for _, moments in kept]


class AdamFeatures:
    """Cosines of a checkpoint's Adam directions with the seeds' gradients, and a sketch of unit length.

    The train feature of a row is Adam's direction for its gradient, the validation feature of a seed its plain
    gradient. Inner products are those of two-sided Rademacher projections (exact for a side of at most feature_side),
    lengths are exact; the cosine [n, S] is their quotient, 0 where a length is 0. The sketch is the direction's, by the
    projections of the sweep, over its length.

    Args:
        model: the checkpoint's, with the layers that were trained.
        moments: of these layers.
        seeds: the validation examples.
        config: options of the pass.

    Attributes:
        seed_sketches: of the seeds' gradients over their lengths, float32 [S, dim].
        scale: of the sketches, which brings their entries to about 1, as float16 likes them.
    """

    name = "cosine"

    def __init__(self, model: Model, moments: Sequence[Moments], seeds: Sequence[Example], config: Config) -> None:
        self._model, self._config, c = model, config, config
        self.columns, self.width = len(seeds), len(seeds) + 1  # the last column is the squared length
        self.scale = 2.0 ** round(math.log2(math.sqrt(c.projection_dim)))
        self._dtype = sum_dtype(model)
        self._moments = list(moments)
        self._sides = [_Sides.make(layer, c.feature_side, c.projection_seed, self._dtype) for layer in model.layers]
        self._sketches = [
            make_projection(layer, c.projection_side, c.projection_dim, c.projection_seed, self._dtype, layer.device)
            for layer in model.layers
        ]
        self._columns = [
            (projection.columns.argsort(stable=True), projection.columns.bincount(minlength=c.projection_dim))
            for projection in self._sketches
        ]
        self.seed_sketches, self._seeds = self._validation(seeds)

    def begin(self, examples: Segments) -> Add:
        """Begin a batch."""

        def add(index: int, a: torch.Tensor, d: torch.Tensor, sums: torch.Tensor, sketch: torch.Tensor) -> None:
            for lines, g in self._gradients_of(index, a, d, examples):
                gamma = self._moments[index].direction(g)
                sums[lines, -1] += gamma.flatten(1).square().sum(1)
                sums[lines, :-1] += self._sides[index].apply(gamma) @ self._seeds[index]
                self._add_sketch(index, gamma, sketch[lines])

        return add

    def end(self, sums: torch.Tensor, sketch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Divide the inner products and the sketch by the length."""
        length = sums[:, -1:].sqrt()
        length = torch.where(length == 0, 1.0, length)
        return sums[:, :-1] / length, sketch / length

    def _gradients_of(
        self, index: int, a: torch.Tensor, d: torch.Tensor, examples: Segments
    ) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yield (lines, their gradients [n, O, J] of a layer), a few at a time. Lines are of one length, pads with
        d = 0."""
        layer, lines = self._model.layers[index], len(examples)
        a = with_ones(a.to(self._dtype), layer.width).view(lines, -1, layer.width)
        d = d.to(self._dtype).view(lines, -1, layer.out_features)
        step = max(1, _ENTRIES // (layer.out_features * layer.width))
        for start in range(0, lines, step):
            few = slice(start, start + step)
            yield few, torch.bmm(d[few].mT, a[few])

    def _add_sketch(self, index: int, g: torch.Tensor, out: torch.Tensor) -> None:
        one, (order, counts) = self._sketches[index], self._columns[index]
        blocks = (one.p @ g @ one.q.T).flatten(1) * one.weights
        # Column by column: index_add_ on CUDA adds in whatever order its threads come.
        sums = torch.segment_reduce(blocks.T[order], "sum", lengths=counts, axis=0, unsafe=True, initial=0)
        out += sums.T

    def _validation(self, seeds: Sequence[Example]) -> tuple[np.ndarray, list[torch.Tensor]]:
        """The seeds' sketches over their gradients' lengths, float32 [S, dim], and for each layer their projected
        gradients over these lengths, [K, S]."""
        model, n = self._model, len(seeds)
        features: list[list[torch.Tensor]] = [[torch.empty(0)] * n for _ in model.layers]
        square = torch.zeros(n, dtype=torch.float64)
        sketch = torch.zeros(n, self._config.projection_dim, dtype=self._dtype)
        gradients = GradientPass(model, self._config.loss_reduction)
        for batch in make_batches(seeds, first_batch_size(self._config), window=model.window):
            examples, rows = batch.segments, batch.rows

            def sink(
                index: int,
                a: torch.Tensor,
                d: torch.Tensor,
                mask: torch.Tensor,
                examples: Segments = examples,
                rows: np.ndarray = rows,
            ) -> None:
                for lines, g in self._gradients_of(index, a, d, examples):
                    places = rows[lines]
                    square[places] += g.flatten(1).square().sum(1, dtype=torch.float64).cpu()
                    part = torch.zeros(len(places), self._config.projection_dim, dtype=self._dtype, device=g.device)
                    self._add_sketch(index, g, part)
                    sketch[places] += part.cpu()
                    for place, feature in zip(places.tolist(), self._sides[index].apply(g), strict=True):
                        features[index][place] = feature

            with float32_products(self._config.matmul_precision):
                losses = gradients.run(batch, sink).cpu().numpy()
            if not np.isfinite(losses).all():
                bad = int(rows[np.flatnonzero(~np.isfinite(losses))[0]])
                raise ModelError(f"seeds: seed {bad}: its loss at this checkpoint is {losses[list(rows).index(bad)]}")
        length = torch.where(square == 0, 1.0, square.sqrt()).to(self._dtype)
        joined = [torch.stack(ones, dim=1) / length.to(ones[0].device) for ones in features]
        return (sketch / length[:, None]).float().numpy(), joined
