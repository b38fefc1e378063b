"""A trial of seconds on the real model: what each step of a run costs, by the very code of the run.

One batch of the pool and a few seeds pass the model. What the pass gives one layer of each kind is kept, and the steps
of the run are measured on it. A step's seconds over all layers follow from the kinds of the layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from gdig.config.config import Config
from gdig.data.tokens import Example
from gdig.influence.dense_plan import plan_dense
from gdig.influence.layer_scores import shapes_of
from gdig.influence.seed_factors import SeedFactors
from gdig.influence.seed_plan import make_groups
from gdig.influence.sweep_plan import SweepPlan
from gdig.model.batches import Batch, make_batches
from gdig.model.causal_model import Model
from gdig.model.layers import Layer
from gdig.model.precision import takes_bfloat16
from gdig.planning.layer_trial import LayerCost, LayerTrial
from gdig.planning.pass_trial import (
    Kind,
    PassRates,
    capture,
    kind_of,
    representatives,
    time_forward,
    time_passes,
    with_layers,
)
from gdig.planning.stopwatch import Stopwatch

_PASSES_S = 8.0
"""The pass of the batch is repeated when both passes end within this time."""
_SEED_TOKENS = 256
"""Most tokens of the seeds that pass, unless one seed has more."""


@dataclass(frozen=True)
class Rates:
    """What a trial measured.

    Attributes:
        passes: of batches of the pool.
        seed_pass: seconds a token of the small batches of the seeds, for the whole pass.
        kinds: cost of a layer by its kind.
        columns: of all seeds in each layer.
        n_seeds: seeds whose scores were measured.
        seconds: of the trial.
    """

    passes: PassRates
    seed_pass: float
    kinds: dict[Kind, LayerCost]
    columns: tuple[int, ...]
    n_seeds: int
    seconds: float

    def of_layers(self, name: str, layers: Sequence[Layer]) -> float:
        """The sum of a cost over some layers."""
        return sum(float(getattr(self.kinds[kind_of(layer)], name)) for layer in layers)

    def of_scores(self, name: str, layers: Sequence[Layer], ways: Sequence[Any]) -> float:
        """The sum of the cost `scores` or `dense` of all seeds of the trial over some layers, each in its way.

        With fewer layers or seeds, a layer can score in a way that the trial has not measured. It is taken to cost what
        another way costs: W in either precision takes the same time, and each layer has the way that is cheaper.
        """
        seconds = 0.0
        for layer, way in zip(layers, ways, strict=True):
            measured = getattr(self.kinds[kind_of(layer)], name)
            seconds += measured[way] if way in measured else max(measured.values(), default=0.0)
        return seconds

    def as_json(self) -> dict[str, Any]:
        """Return the rates as values of JSON."""
        kinds = [{"shape": [kind[1], kind[0]], "first": kind[2], **asdict(cost)} for kind, cost in self.kinds.items()]
        return {"passes": asdict(self.passes), "seed_pass": self.seed_pass, "kinds": kinds, "seconds": self.seconds}


def run_trial(
    model: Model,
    examples: Sequence[Example],
    seeds: Sequence[Example],
    config: Config,
    token_batch_size: int,
    plan_sweep: Callable[[Model, Sequence[SeedFactors]], SweepPlan],
    watch: Stopwatch,
) -> tuple[Rates, SweepPlan]:
    """Measure every step, and plan the memory of the sweep, which depends on the columns of the seeds.

    Args:
        model: the model with its layers, on its device.
        examples: rows of the pool, from which the batch is made.
        seeds: the seeds.
        config: the options of the run.
        token_batch_size: of the run.
        plan_sweep: plans the memory of the sweep with the seeds' factors.
        watch: measures.

    Raises:
        ModelError: as the steps of a run raise it, for instance when a number is not finite.
    """
    begun = watch.now()
    batch = _typical_batch(examples, token_batch_size, model)
    if not config.gradients:
        passes = time_forward(model, batch, config, watch)
        return Rates(passes, 0.0, {}, (), 0, watch.now() - begun), plan_sweep(model, [])
    indices = representatives(model.layers)
    small = with_layers(model, indices)
    passes, captured = time_passes(small, batch, config, watch, _PASSES_S)
    trial = LayerTrial(small, captured, config, watch)
    trial.fit()
    group = _typical_seeds(seeds, model.rotary_switch)
    longest_seed = max(map(len, group))
    (seed_batch,) = make_batches(group, len(group) * longest_seed, window=longest_seed)
    _, captured_seeds = capture(small, seed_batch, config, watch)
    mean_length = int(np.mean([len(example) for example in examples]))
    trial.seeds(captured_seeds, config.probe_rows * mean_length)
    trial.sketches()
    seed_pass = captured_seeds.seconds / seed_batch.input_ids.size
    factors = empty_factors(model, trial.by_kind(), len(seeds))
    columns = tuple(f.u.shape[1] for f in factors)
    sweep = plan_sweep(model, factors)
    ways: dict[Kind, list[Any]] = {}
    shapes = shapes_of(factors, takes_bfloat16(config.matmul_precision, model.device))
    for layer, way in zip(model.layers, plan_dense(shapes, sweep.dense_bytes), strict=True):
        if way not in ways.setdefault(kind_of(layer), []):
            ways[kind_of(layer)].append(way)
    trial.scores(len(seeds), ways, sweep.token_batch_size)
    if config.checkpoints:
        trial.checkpoint()
    return Rates(passes, seed_pass, trial.by_kind(), columns, len(seeds), watch.now() - begun), sweep


def empty_factors(model: Model, kinds: Mapping[Kind, LayerCost], n_seeds: int) -> list[SeedFactors]:
    """The factors of so many seeds in each layer, on the device "meta"."""
    dtype = torch.promote_types(model.dtype, torch.float32)
    factors = []
    for layer in model.layers:
        cost = kinds[kind_of(layer)]
        n = round(n_seeds * cost.columns)
        u, v = (torch.empty(width, n, dtype=dtype, device="meta") for width in (layer.out_features, layer.width))
        offsets = torch.linspace(0, n, n_seeds + 1).long()
        factors.append(SeedFactors(u, v, offsets, np.full(n_seeds, cost.energy), layer.share))
    return factors


def _typical_batch(examples: Sequence[Example], size: int, model: Model) -> Batch:
    """The batch in the middle, whose lines have about the median length of a token of the pool."""
    made = make_batches(examples, size, window=model.window, rotary_switch=model.rotary_switch)
    batches = [batch for batch in made if len(batch.targets[1])]
    full = [batch for batch in batches if batch.input_ids.size > size // 2] or batches
    tokens = np.cumsum([batch.input_ids.size for batch in full])
    return full[int(np.searchsorted(tokens, tokens[-1] / 2))]


def _typical_seeds(seeds: Sequence[Example], rotary_switch: int | None) -> list[Example]:
    """A group of seeds of about the median length, as the run passes them together."""
    ordered = sorted(seeds, key=len)
    middle = len(ordered) // 2
    near = [*ordered[middle:], *ordered[:middle][::-1]]
    (first, *_) = make_groups(near, rotary_switch)
    group = [near[number] for number in first]
    while len(group) > 1 and len(group) * max(map(len, group)) > _SEED_TOKENS:
        group.pop()
    return group
