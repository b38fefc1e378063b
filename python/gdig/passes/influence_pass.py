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
from gdig.passes.row_pass import Add, RowPass
from gdig.passes.sketch import Sketchers
from gdig.progress import Progress


class Sweeper(RowPass):
    """Computes shards of the sweep: influence on every seed, and the sketch.

    Args:
        model: frozen, with its layers.
        seeds: the layers' seed factors.
        config: options of the pass.
        progress: for warnings.
        scale: multiplies every sketch, a power of two that brings float16 to the middle of its range (`sketch_scale`).
        factors: of the curvature, needed for sketch_space "fisher".
    """

    def __init__(
        self,
        model: Model,
        seeds: Sequence[SeedFactors],
        config: Config,
        progress: Progress,
        scale: float = 1.0,
        factors: Iterable[Factors] | None = None,
    ) -> None:
        super().__init__(model, config, progress, len(seeds[0].column_offsets) - 1)
        self.scale = scale
        self._scorers = make_scorers(seeds)
        self._sketchers = Sketchers(model, config, self._dtype, factors)

    def _begin(self, examples: Segments) -> Add:
        add_sketch = self._sketchers.begin(examples)

        def add(index: int, a: torch.Tensor, d: torch.Tensor, influence: torch.Tensor, sketch: torch.Tensor) -> None:
            self._scorers[index].add(a, d, examples, influence)
            add_sketch(index, a, d, sketch)

        return add


def sketch_scale(sweeper: Sweeper, probe: Sequence[Example]) -> float:
    """The power of two that brings the median row of `probe` to a root mean square of about 1 an entry.

    float16 then has 2^16 of room above and 2^14 below before it loses precision. k-means does not see the scale.
    """
    _, sketch, loss = sweeper.compute(probe)
    norms = np.linalg.norm(sketch[np.isfinite(loss)].astype(np.float64), axis=1)
    norms = norms[np.isfinite(norms) & (norms > 0)]
    if not len(norms):
        return 1.0
    return 2.0 ** -round(math.log2(float(np.median(norms)) / math.sqrt(sketch.shape[1])))
