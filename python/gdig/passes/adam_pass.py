"""The features of LESS (arXiv 2402.04333): the cosine of each row's Adam direction with each seed's gradient."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from gdig.config.config import Config
from gdig.data.tokens import Example
from gdig.errors import NotFiniteError, OptimizerStateError
from gdig.influence.curvature_sums import with_ones
from gdig.model.batch_size import CPU_TOKENS
from gdig.model.batches import make_batches
from gdig.model.capture import GradientPass
from gdig.model.causal_model import Model
from gdig.model.layers import Layer
from gdig.model.optimizer import Adam, Moments
from gdig.model.places import Places
from gdig.model.precision import float32_products
from gdig.ops import Segments
from gdig.passes.row_pass import Add, first_batch_size, sum_dtype
from gdig.passes.sketch import make_projection
from gdig.philox import rademacher, stream_key

_ENTRIES = 1 << 25
"""Entries of gradients in memory at once. Adam's direction is not linear in the gradient, so each example needs a whole
matrix."""


@dataclass(frozen=True)
class _Sides:
    """The two-sided projection P G Q^T of a layer's gradient G [O, J]. None stands for the identity."""

    p: torch.Tensor | None
    q: torch.Tensor | None

    @classmethod
    def make(cls, layer: Layer, side: int, random_seed: int, dtype: torch.dtype) -> _Sides:
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


def trained_layers(model: Model, adam: Adam) -> tuple[Model, list[Moments]]:
    """Return the model with the layers that the optimizer trained, and the moments of these layers.

    Raises:
        ModelError: if the optimizer trained none of the layers.
    """
    names = {id(p): name for name, p in model.module.named_parameters()}
    moments_of_layers = [(layer, adam.of_layer(layer, names)) for layer in model.layers]
    trained = [(layer, moments) for layer, moments in moments_of_layers if moments is not None]
    if not trained:
        first_names = ", ".join(list(adam.moments)[:3])
        raise OptimizerStateError(
            f"{adam.file}: none of the layers ({model.layers[0].name} .. {model.layers[-1].name}) was trained; it "
            f"holds moments of {len(adam.moments)} parameters ({first_names}, ...); choose layers with filter_modules"
        )
    return replace(model, layers=[layer for layer, _ in trained]), [moments for _, moments in trained]


class AdamFeatures:
    """Cosines of a checkpoint's Adam directions with the seeds' gradients, and a sketch of unit length.

    The train feature of a row is Adam's direction for the row's gradient. The validation feature of a seed is the
    seed's gradient. The cosine [n, S] is their inner product over their lengths, and 0 if a length is 0. The inner
    product is the one of two-sided Rademacher projections; it is exact for sides of at most feature_side. The lengths
    are exact. The sketch is the sweep's projection of the direction, over the length of the direction.

    Args:
        model: the checkpoint's model with the trained layers.
        moments: the moments of these layers.
        seeds: the validation examples.
        config: options of the pass.

    Attributes:
        name: the name of the tensor of cosines in the shards.
        columns: S.
        width: S + 1; the last column of the sums is the squared length.
        cpu_tokens: the largest batch that gains time on a CPU.
        seed_sketches: float32 [S, dim], the sketches of the seeds' gradients over the lengths of the gradients.
        scale: a factor for the sketches. It brings the entries to about 1, where float16 is most precise.
    """

    name = "cosine"
    cpu_tokens = CPU_TOKENS

    def __init__(self, model: Model, moments: Sequence[Moments], seeds: Sequence[Example], config: Config) -> None:
        self._model, self._config, c = model, config, config
        self.columns, self.width = len(seeds), len(seeds) + 1
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
        self.seed_sketches, self._seeds = self._seed_features(seeds)
        # Adam moves the weights of an expert also for a row that does not go there: by its momentum.
        self._rest = {i: self._at_rest(i) for i, layer in enumerate(model.layers) if layer.expert is not None}
        self._seen: dict[int, torch.Tensor] = {}  # of the running batch: which lines go to an expert

    def begin(self) -> tuple[Add, None]:
        """Begin a batch: return the function that adds a layer to the batch's sums. Experts are layers like others:
        each example has a whole matrix at each."""
        self._seen = {}

        def add(
            index: int, a: torch.Tensor, d: torch.Tensor, places: Places, sums: torch.Tensor, sketch: torch.Tensor
        ) -> None:
            for lines, g in self._gradients_of(index, a, d, places.examples):
                numbers, of_direction = self._features(index, self._moments[index].direction(g))
                sums[lines] += numbers
                sketch[lines] += of_direction
            if index in self._rest:
                self._seen[index] = places.examples.lengths > 0

        return add, None

    def end(self, sums: torch.Tensor, sketch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the layers that a row does not go to; divide inner products and sketch by the length of the direction."""
        for index, (numbers, of_direction) in self._rest.items():
            seen = self._seen.get(index)
            absent = torch.ones(len(sums), dtype=torch.bool) if seen is None else ~seen
            if absent.any():
                lines = absent.nonzero()[:, 0].to(sums.device)
                sums[lines] += numbers.to(sums.device)
                sketch[lines] += of_direction.to(sketch.device)
        lengths = sums[:, -1:].sqrt()
        lengths = torch.where(lengths == 0, 1.0, lengths)
        return sums[:, :-1] / lengths, sketch / lengths

    def _features(self, index: int, gamma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of directions [n, O, J] of a layer: the inner products and the squared length [n, S + 1]; the sketch."""
        products = self._sides[index].apply(gamma) @ self._seeds[index]
        numbers = torch.cat([products, gamma.flatten(1).square().sum(1, keepdim=True)], dim=1)
        return numbers, self._sketch(index, gamma)

    def _at_rest(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The features of a layer's direction at a gradient of zeros, [1, S + 1] and [1, dim]."""
        return self._features(index, self._moments[index].direction(self._zeros(index)))

    def _zeros(self, index: int) -> torch.Tensor:
        """A gradient of zeros of a layer: [1, O, J]."""
        layer = self._model.layers[index]
        return torch.zeros(1, layer.out_features, layer.width, dtype=self._dtype, device=layer.device)

    def _gradients_of(
        self, index: int, a: torch.Tensor, d: torch.Tensor, examples: Segments
    ) -> Iterator[tuple[slice | list[int], torch.Tensor]]:
        """Yield some lines at a time, and their gradients [n, O, J] of a layer.

        Where a layer sees all tokens, the lines have one length, and d = 0 at a pad. An expert has the tokens that a
        line sends it; a line without any is not yielded.
        """
        layer = self._model.layers[index]
        a, d = with_ones(a.to(self._dtype), layer.width), d.to(self._dtype)
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

    def _sketch(self, index: int, g: torch.Tensor) -> torch.Tensor:
        """The sketch [n, dim] of matrices g [n, O, J] of a layer."""
        projection, (order, counts) = self._sketches[index], self._columns[index]
        blocks = (projection.p @ g @ projection.q.T).flatten(1) * projection.weights
        # The sum goes column by column, because index_add_ on CUDA adds in a random order.
        return torch.segment_reduce(blocks.T[order], "sum", lengths=counts, axis=0, unsafe=True, initial=0).T

    def _seed_features(self, seeds: Sequence[Example]) -> tuple[np.ndarray, list[torch.Tensor]]:
        """Compute the validation features. All of them are divided by the length of the seed's gradient.

        Returns:
            The sketches, float32 [S, dim]; and for each layer the projected gradients, [K, S].
        """
        model, n = self._model, len(seeds)
        # A seed has a gradient of zeros at the experts that it does not go to.
        features = [[sides.apply(self._zeros(index))[0]] * n for index, sides in enumerate(self._sides)]
        squares = torch.zeros(n, dtype=torch.float64)
        sketch = torch.zeros(n, self._config.projection_dim, dtype=self._dtype)
        gradients = GradientPass(model, self._config.loss_reduction)
        for batch in make_batches(
            seeds, first_batch_size(self._config), window=model.window, rotary_switch=model.rotary_switch
        ):
            rows = batch.rows

            def sink(
                index: int,
                a: torch.Tensor,
                d: torch.Tensor,
                places: Places,
                rows: np.ndarray = rows,
            ) -> None:
                for lines, g in self._gradients_of(index, a, d, places.examples):
                    seed_rows = rows[lines]
                    squares[seed_rows] += g.flatten(1).square().sum(1, dtype=torch.float64).cpu()
                    sketch[seed_rows] += self._sketch(index, g).cpu()
                    for row, feature in zip(seed_rows.tolist(), self._sides[index].apply(g), strict=True):
                        features[index][row] = feature

            with float32_products(self._config.matmul_precision):
                losses = gradients.run(batch, sink).cpu().numpy()
            if not np.isfinite(losses).all():
                bad = int(rows[np.flatnonzero(~np.isfinite(losses))[0]])
                loss = losses[list(rows).index(bad)]
                raise NotFiniteError(
                    f"seeds: seed {bad}: its loss at this checkpoint is {loss}, expected a finite loss; check the "
                    "seed and the weights of the checkpoint"
                )
        lengths = torch.where(squares == 0, 1.0, squares.sqrt()).to(self._dtype)
        joined = [torch.stack(columns, dim=1) / lengths.to(columns[0].device) for columns in features]
        return (sketch / lengths[:, None]).float().numpy(), joined
