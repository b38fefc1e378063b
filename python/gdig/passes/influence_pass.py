"""The pass of the sweep: one forward and one backward pass for each row give influence, sketch and hidden states."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence

import numpy as np
import torch

from gdig.config.config import Config
from gdig.data.tokens import Example
from gdig.influence.dense_plan import DENSE_BYTES, cpu_tokens
from gdig.influence.factors import Factors
from gdig.influence.layer_scores import ExpertScorer, make_scorers
from gdig.influence.seed_factors import SeedFactors
from gdig.model.causal_model import Model
from gdig.model.places import ExpertPlaces, Places
from gdig.model.precision import takes_bfloat16
from gdig.passes.hidden_states import HiddenSketch
from gdig.passes.row_pass import Add, AddExperts, NoGradients, RowPass, sum_dtype
from gdig.passes.sketch import Sketchers
from gdig.progress import Bar, Progress


class InfluenceFeatures:
    """The influence of a row on every seed, and the row's sketch.

    Args:
        model: the frozen model.
        seeds: the seeds' factors in each layer (`make_scorers`).
        config: options of the pass.
        factors: the curvature of each layer; only sketch_space "fisher" needs it.
        dense_bytes: the most memory for the seeds' dense gradients (`make_scorers`).
        from_files: the layers whose factors each batch reads anew (`make_scorers`).

    Attributes:
        name: the name of the tensor of influence in the shards.
        columns: the number S of seeds.
        width: S.
        cpu_tokens: the largest batch that gains time on a CPU.
    """

    name = "influence"

    def __init__(
        self,
        model: Model,
        seeds: Sequence[SeedFactors],
        config: Config,
        factors: Iterable[Factors] | None = None,
        dense_bytes: int = DENSE_BYTES,
        from_files: Collection[int] = (),
    ) -> None:
        self.columns = self.width = len(seeds[0].column_offsets) - 1
        bfloat16 = takes_bfloat16(config.matmul_precision, model.device)
        self._scorers = make_scorers(seeds, dense_bytes, bfloat16, from_files)
        self._expert_scorers: dict[int, ExpertScorer] = {}  # by the index of a matrix's first layer
        self.cpu_tokens = cpu_tokens(sum(scorer.w is not None for scorer in self._scorers), len(self._scorers))
        self._sketchers = Sketchers(model, config, sum_dtype(model), factors)

    def begin(self) -> tuple[Add, AddExperts]:
        """Begin a batch: return the functions that add a layer, and a matrix of experts, to the batch's sums."""
        add_sketch = self._sketchers.begin()

        def add(
            index: int, a: torch.Tensor, d: torch.Tensor, places: Places, sums: torch.Tensor, sketch: torch.Tensor
        ) -> None:
            self._scorers[index].add(a, d, places.examples, sums)
            add_sketch(index, a, d, places.examples, sketch)

        def add_experts(
            indices: Sequence[int], a: torch.Tensor, d: torch.Tensor, places: ExpertPlaces, sums: torch.Tensor,
            sketch: torch.Tensor,
        ) -> None:  # fmt: skip
            if indices[0] not in self._expert_scorers:
                self._expert_scorers[indices[0]] = ExpertScorer([self._scorers[index] for index in indices])
            self._expert_scorers[indices[0]].add(a, d, places.rows, sums)
            self._sketchers.add_experts(indices, a, d, places.rows, sketch)

        return add, add_experts

    def end(self, sums: torch.Tensor, sketch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return both unchanged: the sums are the influence."""
        return sums, sketch


def make_influence_pass(
    model: Model,
    seeds: Sequence[SeedFactors],
    config: Config,
    progress: Progress,
    factors: Iterable[Factors] | None = None,
    dense_bytes: int = DENSE_BYTES,
    from_files: Collection[int] = (),
) -> RowPass:
    """Make the pass of the sweep. `progress` prints warnings; :class:`InfluenceFeatures` has the other arguments."""
    features = InfluenceFeatures(model, seeds, config, factors, dense_bytes, from_files)
    return RowPass(model, features, config, progress, hidden=make_hidden_sketch(config))


def make_forward_pass(model: Model, config: Config, progress: Progress) -> RowPass:
    """Make the pass of a sweep without gradients: losses and hidden states."""
    return RowPass(model, NoGradients(), config, progress, hidden=make_hidden_sketch(config))


def make_hidden_sketch(config: Config) -> HiddenSketch:
    """Make the hidden-state sketch of the sweep."""
    return HiddenSketch(config.hidden_layers, config.projection_dim, config.projection_seed)


def sketch_scale(rows: RowPass, probe: Sequence[Example], bar: Bar | None = None) -> float:
    """Return the power of two that brings the median sketch of `probe` to a root mean square of about 1 an entry.

    float16 then holds numbers 2^16 times larger, and numbers 2^14 times smaller without a loss of precision. The
    clusters of k-means are independent of the scale. `bar` has one unit a row.
    """
    numbers = rows.compute(probe, bar)
    sketch, loss = numbers.sketch, numbers.loss
    norms = np.linalg.norm(sketch[np.isfinite(loss)].astype(np.float64), axis=1)
    norms = norms[np.isfinite(norms) & (norms > 0)]
    if not len(norms):
        return 1.0
    return 2.0 ** -round(math.log2(float(np.median(norms)) / math.sqrt(sketch.shape[1])))
