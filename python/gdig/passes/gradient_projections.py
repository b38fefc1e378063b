"""Whole gradients of examples, layer by layer, and what a pass keeps of them: two-sided projections and sketches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from gdig.config.config import Config
from gdig.influence.curvature_sums import with_ones
from gdig.model.causal_model import Model
from gdig.model.layers import Layer
from gdig.ops import Segments
from gdig.passes.row_pass import sum_dtype
from gdig.passes.sketch import make_projection
from gdig.philox import rademacher, stream_key

_ENTRIES = 1 << 25
"""Entries of gradients in memory at once. Adam's direction is not linear in the gradient, so each example needs a whole
matrix."""
_LEAST_LENGTH = 8
"""Tokens of the shortest line of a batch (`gdig.model.batches`)."""


@dataclass(frozen=True)
class Sides:
    """The two-sided projection P G Q^T of a layer's gradient G [O, J]. None stands for the identity."""

    p: torch.Tensor | None
    q: torch.Tensor | None

    @classmethod
    def make(cls, layer: Layer, side: int, random_seed: int, dtype: torch.dtype) -> Sides:
        """Make the projection of a layer: sides longer than `side` get so many Rademacher signs."""

        def signs_of_side(name: str, width: int) -> torch.Tensor | None:
            if width <= side:
                return None
            signs = rademacher(stream_key(layer.name, f"features {name}", random_seed), side, width)
            return torch.from_numpy(signs).to(layer.device, dtype) / math.sqrt(side)

        return cls(signs_of_side("output", layer.out_features), signs_of_side("input", layer.width))

    def apply(self, g: torch.Tensor) -> torch.Tensor:
        """Project gradients g [n, O, J] to [n, K]."""
        g = g if self.p is None else self.p @ g
        g = g if self.q is None else g @ self.q.T
        return g.flatten(1)


class GradientProjections:
    """The gradients of the examples of a batch in a model's layers, and their projections.

    Args:
        model: the model with its layers.
        config: feature_side, projection_dim, projection_side, projection_seed.

    Attributes:
        dtype: of the gradients and of what is made of them.
        sides: the two-sided projection of each layer.
        sketches: the sweep's projection of each layer.
    """

    def __init__(self, model: Model, config: Config) -> None:
        self._layers, self.dtype, c = model.layers, sum_dtype(model), config
        self.sides = [Sides.make(layer, c.feature_side, c.projection_seed, self.dtype) for layer in model.layers]
        self.sketches = [
            make_projection(layer, c.projection_side, c.projection_dim, c.projection_seed, self.dtype, layer.device)
            for layer in model.layers
        ]
        self._columns = [
            (projection.columns.argsort(stable=True), projection.columns.bincount(minlength=c.projection_dim))
            for projection in self.sketches
        ]

    def gradients_of(
        self, index: int, a: torch.Tensor, d: torch.Tensor, examples: Segments
    ) -> Iterator[tuple[slice | list[int], torch.Tensor]]:
        """Yield some lines at a time, and their gradients [n, O, J] of a layer.

        Where a layer sees all tokens, the lines have one length, and d = 0 at a pad. An expert has the tokens that a
        line sends it; a line without any is not yielded.
        """
        layer = self._layers[index]
        a, d = with_ones(a.to(self.dtype), layer.width), d.to(self.dtype)
        step = max(1, _ENTRIES // (layer.out_features * layer.width))
        if layer.expert is not None:
            bounds = examples.bounds
            lines = [line for line, length in enumerate(examples.lengths.tolist()) if length]
            for start in range(0, len(lines), step):
                some = lines[start : start + step]
                yield some, torch.stack([d[i:j].T @ a[i:j] for i, j in ((bounds[x], bounds[x + 1]) for x in some)])
            return
        a, d = a.view(len(examples), -1, layer.width), d.view(len(examples), -1, layer.out_features)
        for start in range(0, len(examples), step):
            block = slice(start, start + step)
            yield block, torch.bmm(d[block].mT, a[block])

    def zeros(self, index: int) -> torch.Tensor:
        """A gradient of zeros of a layer: [1, O, J]."""
        layer = self._layers[index]
        return torch.zeros(1, layer.out_features, layer.width, dtype=self.dtype, device=layer.device)

    def sketch(self, index: int, g: torch.Tensor) -> torch.Tensor:
        """The sketch [n, dim] of matrices g [n, O, J] of a layer."""
        projection, (order, counts) = self.sketches[index], self._columns[index]
        blocks = (projection.p @ g @ projection.q.T).flatten(1) * projection.weights
        # The sum goes column by column, because index_add_ on CUDA adds in a random order.
        return torch.segment_reduce(blocks.T[order], "sum", lengths=counts, axis=0, unsafe=True, initial=0).T


def feature_bytes(model: Model, config: Config) -> int:
    """Return the bytes of an example's projected gradients in all layers."""
    side = config.feature_side
    numbers = sum(min(layer.out_features, side) * min(layer.width, side) for layer in model.layers)
    return numbers * sum_dtype(model).itemsize


def gradient_bytes(model: Model, tokens: int) -> int:
    """Return the most bytes of whole gradients in a batch of so many tokens: gradients, their squares, directions."""
    lines = max(1, tokens // _LEAST_LENGTH)
    sizes = [layer.out_features * layer.width for layer in model.layers]
    return 3 * sum_dtype(model).itemsize * max(min(lines, max(1, _ENTRIES // size)) * size for size in sizes)
