"""The features of LESS (arXiv 2402.04333): the cosine of each row's Adam direction with each seed's gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from gdig.errors import OptimizerStateError
from gdig.model.batch_size import CPU_TOKENS
from gdig.model.causal_model import Model
from gdig.model.optimizer import Adam, Moments
from gdig.model.places import Places
from gdig.passes.adam_seeds import SeedGradients
from gdig.passes.gradient_projections import GradientProjections
from gdig.passes.row_pass import Add


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
        projections: of these layers.
        seeds: what is kept of the gradients of the validation examples.

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

    def __init__(
        self, model: Model, moments: Sequence[Moments], projections: GradientProjections, seeds: SeedGradients
    ) -> None:
        n, dim = seeds.sketches.shape
        self.columns, self.width = n, n + 1
        self.scale = 2.0 ** round(math.log2(math.sqrt(dim)))
        self._moments = list(moments)
        self._projections = projections
        self.seed_sketches, self._seeds = seeds.sketches, seeds.projected
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
            for lines, g in self._projections.gradients_of(index, a, d, places.examples):
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
        products = self._projections.sides[index].apply(gamma) @ self._seeds[index]
        numbers = torch.cat([products, gamma.flatten(1).square().sum(1, keepdim=True)], dim=1)
        return numbers, self._projections.sketch(index, gamma)

    def _at_rest(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The features of a layer's direction at a gradient of zeros, [1, S + 1] and [1, dim]."""
        return self._features(index, self._moments[index].direction(self._projections.zeros(index)))
