"""The sweep: one forward and backward pass over the pool, which gives influence and sketch together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch

from gdig.config.config import Config
from gdig.data.tokens import Example
from gdig.influence.curvature import Factors
from gdig.influence.layer_scores import make_scorers
from gdig.influence.seed_factors import SeedFactors
from gdig.model.causal_model import Model
from gdig.ops import Segments
from gdig.passes.row_pass import Add, RowPass, sum_dtype
from gdig.passes.sketch import Sketchers
from gdig.progress import Progress


class InfluenceFeatures:
    """Influence on every seed, and the sketch.

    Args:
        model: frozen, with its layers.
        seeds: the layers' seed factors.
        config: options of the pass.
        factors: of the curvature, needed for sketch_space "fisher".
    """

    name = "influence"

    def __init__(
        self, model: Model, seeds: Sequence[SeedFactors], config: Config, factors: Iterable[Factors] | None = None
    ) -> None:
        self.columns = self.width = len(seeds[0].column_offsets) - 1
        self._scorers = make_scorers(seeds)
        self._sketchers = Sketchers(model, config, sum_dtype(model), factors)

    def begin(self, examples: Segments) -> Add:
        """Begin a batch."""
        add_sketch = self._sketchers.begin(examples)

        def add(index: int, a: torch.Tensor, d: torch.Tensor, sums: torch.Tensor, sketch: torch.Tensor) -> None:
            self._scorers[index].add(a, d, examples, sums)
            add_sketch(index, a, d, sketch)

        return add

    def end(self, sums: torch.Tensor, sketch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return both as they are: the sums are the influence."""
        return sums, sketch


def make_influence_pass(
    model: Model,
    seeds: Sequence[SeedFactors],
    config: Config,
    progress: Progress,
    factors: Iterable[Factors] | None = None,
) -> RowPass:
    """Make the pass of the sweep. Arguments: those of :class:`InfluenceFeatures`, and where to show warnings."""
    return RowPass(model, InfluenceFeatures(model, seeds, config, factors), config, progress)


def sketch_scale(rows: RowPass, probe: Sequence[Example]) -> float:
    """The power of two that brings the median row of `probe` to a root mean square of about 1 an entry.

    float16 then has 2^16 of room above and 2^14 below before it loses precision. k-means does not see the scale.
    """
    _, sketch, loss = rows.compute(probe)
    norms = np.linalg.norm(sketch[np.isfinite(loss)].astype(np.float64), axis=1)
    norms = norms[np.isfinite(norms) & (norms > 0)]
    if not len(norms):
        return 1.0
    return 2.0 ** -round(math.log2(float(np.median(norms)) / math.sqrt(sketch.shape[1])))
