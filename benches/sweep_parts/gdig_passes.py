"""The timed passes: gdig's and the plain ones. Each is prepared before the clock starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from benches.sweep_parts.plain_passes import file_order, plain_pass, rectangles, trainable
from benches.sweep_parts.random_examples import WINDOW, Size, make_examples
from gdig.config.config import Config
from gdig.data.tokens import Example
from gdig.influence.curvature import fit_curvature
from gdig.influence.factors import Factors
from gdig.influence.precondition_seeds import precondition_seeds
from gdig.influence.seed_factors import SeedFactors
from gdig.model.causal_model import Model, wrap_model
from gdig.model.layers import Layer
from gdig.model.optimizer import Moments
from gdig.passes.adam_pass import AdamFeatures
from gdig.passes.adam_seeds import pass_seeds
from gdig.passes.gradient_projections import GradientProjections
from gdig.passes.influence_pass import make_influence_pass
from gdig.passes.row_pass import RowPass
from gdig.progress import Progress

Pass = Callable[[Sequence[Example]], object]
"""One pass over examples; the clock measures this call."""

QUIET = Progress(quiet=True)

# The sweep with many seeds: the number of seeds, and the rank of each.
MANY_SEEDS, MANY_RANK = 256, 32

# The examples that a curvature is fitted on, where only its use is timed.
_FIT_ROWS = 64


@dataclass
class Case:
    """A model size with its examples, whose lengths are drawn from `lengths` int64 [N, 2]."""

    size: Size
    lengths: np.ndarray

    @cached_property
    def examples(self) -> list[Example]:
        return make_examples(self.lengths, self.size.examples, self.size.vocab_size)

    @cached_property
    def seeds(self) -> list[Example]:
        return make_examples(self.lengths, self.size.seeds, self.size.vocab_size, random_seed=1)

    @cached_property
    def trainable(self) -> torch.nn.Module:
        """The model of the plain passes."""
        return trainable(self.size.module())

    @cached_property
    def model(self) -> Model:
        """The same model, frozen, with all its MLP layers."""
        return wrap_model(self.size.module(), self.config())

    @cached_property
    def factors(self) -> list[Factors]:
        """Curvature of all MLP layers."""
        rows = self.examples[:_FIT_ROWS]
        return fit_curvature(self.model, rows, np.arange(len(rows), dtype=np.uint64), self.config(), QUIET)[0]

    def config(self, **options: Any) -> Config:
        size = self.size.token_batch_size
        return Config.build({"device": "cpu", "token_batch_size": size, "probe_rows": 1, "quiet": True, **options})


def plain_file_order(case: Case) -> Pass:
    return lambda examples: plain_pass(case.trainable, file_order(examples))


def plain_sorted(case: Case) -> Pass:
    return lambda examples: plain_pass(case.trainable, rectangles(examples, case.size.token_batch_size, WINDOW))


def sketch(case: Case) -> Pass:
    """The sketch of all MLP layers, no seeds."""
    return _sweep(case.model, [_factors(layer, 0, 0) for layer in case.model.layers], case.config())


def scores_energy(case: Case) -> Pass:
    """Sketch and scores on all MLP layers, the seeds' products to 0.99 of their energy."""
    return _scores(case, case.config(seed_energy=0.99, seed_rank=1 << 16))


def scores_full(case: Case) -> Pass:
    """Sketch and exact scores on all MLP layers."""
    return _scores(case, case.config(seed_energy=1.0, seed_rank=1 << 16))


def scores_many(case: Case) -> Pass:
    """Sketch and scores of 256 seeds at rank 32, both on the down projection of every third block.

    The factors are random, because the time depends on their shapes alone.
    """
    third = "|".join(map(str, range(0, case.size.layers, 3)))
    config = case.config(filter_modules=rf"\.({third})\.mlp\.down_proj$")
    model = wrap_model(case.size.module(), config)
    return _sweep(model, [_factors(layer, MANY_SEEDS, MANY_RANK) for layer in model.layers], config)


def fit(case: Case) -> Pass:
    """EK-FAC on all MLP layers: both passes and the eigendecompositions."""

    def run(examples: Sequence[Example]) -> object:
        return fit_curvature(case.model, examples, np.arange(len(examples), dtype=np.uint64), case.config(), QUIET)

    return run


def checkpoint_whole(case: Case) -> Pass:
    """LESS's pass over a checkpoint whose MLP layers were trained whole."""
    return _checkpoint(case, case.model)


def checkpoint_adapter(case: Case) -> Pass:
    """The same for an adapter of rank 8 on the MLP layers."""
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(r=8, target_modules=["gate_proj", "up_proj", "down_proj"], init_lora_weights=False)
    return _checkpoint(case, wrap_model(get_peft_model(case.size.module(), lora), case.config(), adapter=True))


def scores_of(result: Any) -> np.ndarray:
    """The scores [n, S] among what a pass with scores returns."""
    return np.asarray(result[0] if isinstance(result, tuple) else result)


def _scores(case: Case, config: Config) -> Pass:
    seeds, _ = precondition_seeds(case.model, case.factors, case.seeds, case.examples[:1], config, QUIET)
    return _sweep(case.model, seeds, config)


def _checkpoint(case: Case, model: Model) -> Pass:
    """The moments are random, because the time depends on their shapes alone."""
    generator = torch.Generator().manual_seed(0)

    def moments(layer: Layer) -> Moments:
        shape = (layer.out_features, layer.width)
        first, second = (torch.randn(shape, generator=generator) for _ in range(2))
        return Moments(first * 1e-4, (second * 1e-4).square(), 1000, (0.9, 0.999), 1e-8)

    config = case.config()
    projections = GradientProjections(model, config)
    seeds = pass_seeds(model, projections, case.seeds, config)
    features = AdamFeatures(model, [moments(layer) for layer in model.layers], projections, seeds)
    return RowPass(model, features, config, QUIET, features.scale).compute


def _sweep(model: Model, seeds: Sequence[SeedFactors], config: Config) -> Pass:
    return make_influence_pass(model, seeds, config, QUIET).compute


def _factors(layer: Any, seeds: int, rank: int) -> SeedFactors:
    """Random factors of `seeds` seeds of `rank` columns each."""
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(layer.out_features, seeds * rank, generator=generator)
    v = torch.randn(layer.width, seeds * rank, generator=generator)
    return SeedFactors(u, v, torch.arange(seeds + 1) * rank, np.ones(seeds))
