"""A trial of some seconds: what each step of a run costs a token or a seed, by the very code of the run.

The trial takes one layer of each shape, and all rows of a few batches. A step's cost beside the plain pass goes by
layer; so the measured cost of the layers of the trial, times the work of all layers over theirs, is that of all layers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
import torch

from gdig.config.config import Config
from gdig.data.tokens import Example
from gdig.influence.curvature import fit_curvature
from gdig.influence.factors import Factors
from gdig.influence.seed_factors import SeedFactors, precondition_seeds
from gdig.model.batches import Batch, make_batches
from gdig.model.capture import GradientPass
from gdig.model.causal_model import Model
from gdig.model.layers import Layer
from gdig.passes.influence_pass import make_influence_pass
from gdig.progress import Bar, Progress

_BATCHES = 3
"""Batches whose plain pass is timed: their median and spread."""
_FIT_ROWS = 64
"""Most rows of the trial's fit."""
_SEEDS = 2


@dataclass(frozen=True)
class Rates:
    """What the trial measured, for all chosen layers on this machine.

    Attributes:
        plain: seconds a token of a forward and backward pass that computes nothing for the layers.
        factors: seconds a token beside `plain` for the sums of A and S.
        eigenvectors: seconds for the eigenvectors of all layers.
        eigenvalues: seconds a token beside `plain` for EK-FAC's eigenvalues.
        seed: seconds a seed, its pass included.
        columns: columns a seed over all layers.
        sweep: seconds a token beside `plain` for influence and sketch.
        spread: half the range of the timed batches over their median.
        seconds: of the trial.
    """

    plain: float
    factors: float
    eigenvectors: float
    eigenvalues: float
    seed: float
    columns: float
    sweep: float
    spread: float
    seconds: float


class StageClock(Progress):
    """Shows nothing, and measures the seconds of each stage."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, total: int | None, unit: str = "rows", done: int = 0) -> Iterator[Bar]:
        """Measure a stage."""
        begun = time.perf_counter()
        with super().stage(name, total, unit, done) as bar:
            yield bar
        self.seconds[name] = time.perf_counter() - begun


def run_trial(
    model: Model, examples: Sequence[Example], seeds: Sequence[Example], config: Config, token_batch_size: int
) -> Rates:
    """Measure every step on a few batches.

    Args:
        model: the model with its layers, on its device.
        examples: rows of the pool, from which the batches are made.
        seeds: the seeds.
        config: the options of the run.
        token_batch_size: of the sweep.

    Raises:
        ModelError: as the steps of a run raise it, for instance when no row has a finite loss.
    """
    begun = time.perf_counter()
    batches = _typical_batches(examples, token_batch_size, model)
    rows = [examples[int(row)] for batch in batches for row in batch.rows]
    small = replace(model, layers=representatives(model.layers))
    tokens = [int(batch.lengths.sum()) for batch in batches]
    gradients = GradientPass(small, config.loss_reduction)
    gradients.run(batches[0].halves()[0] if len(batches[0].rows) > 1 else batches[0], _nothing)  # buffers, threads
    plain = [_timed(lambda batch=batch: gradients.run(batch, _nothing), model) / n for batch, n in zip(batches, tokens)]
    clock = StageClock()
    factors, fit_costs = _trial_fit(small, rows, config, clock, median(plain))
    probe = rows[: config.probe_rows]
    shown = [seeds[round(i * (len(seeds) - 1) / max(1, _SEEDS - 1))] for i in range(min(_SEEDS, len(seeds)))]
    seed_factors, report = precondition_seeds(small, factors, shown, probe, replace(config), clock)
    # A seed's pass goes through the whole graph, its layers are those of the trial alone.
    pass_s = median(plain) * float(np.mean([len(seed) for seed in shown]))
    seed_s = max(0.0, clock.seconds["fit: seeds"] / len(shown) - pass_s)
    many = [_repeated(f, len(seeds)) for f in seed_factors]
    sweep = make_influence_pass(small, many, config, clock, factors)
    sweep.batch_runner.token_batch_size = token_batch_size
    sweep.compute(rows[:2])
    sweep_s = _timed(lambda: sweep.compute(rows), model) / sum(tokens)
    squares, sides, cubes = (_share(model.layers, small.layers, work) for work in (_products, _sides, _cubes))
    return Rates(
        plain=median(plain),
        factors=fit_costs["factors"] * squares,
        eigenvectors=fit_costs["eigenvectors"] * cubes,
        eigenvalues=fit_costs["eigenvalues"] * squares,
        seed=seed_s * squares + pass_s,
        columns=report.columns / len(shown) * len(model.layers) / len(small.layers),
        sweep=max(0.0, sweep_s - median(plain)) * sides,
        spread=(max(plain) - min(plain)) / 2 / median(plain),
        seconds=time.perf_counter() - begun,
    )


def representatives(layers: Sequence[Layer]) -> list[Layer]:
    """Return the first layer of each shape, with the layers that share its input: from them follows the cost of all.

    The first layer of all is among them, so the graph of the trial begins where that of the run does.
    """
    chosen: dict[tuple[int, int, bool], Layer] = {}
    for layer in layers:
        chosen.setdefault((layer.width, layer.out_features, layer.input_name == layer.name), layer)
    names = {layer.input_name for layer in chosen.values()} | {layer.name for layer in chosen.values()}
    return [layer for layer in layers if layer.name in names]


def _typical_batches(examples: Sequence[Example], size: int, model: Model) -> list[Batch]:
    """Full batches around the median length, as most of a run's are."""
    batches = make_batches(examples, size, window=model.window)
    middle = len(batches) // 2
    start = max(0, middle - _BATCHES // 2)
    return batches[start : start + _BATCHES]


def _trial_fit(
    model: Model, rows: Sequence[Example], config: Config, clock: StageClock, plain: float
) -> tuple[Sequence[Factors | None], dict[str, float]]:
    """Fit on a few rows: the factors, and the cost of each part beside the plain pass."""
    costs = dict.fromkeys(("factors", "eigenvectors", "eigenvalues"), 0.0)
    if config.inversion == "identity":
        return [None] * len(model.layers), costs
    sample = rows[:_FIT_ROWS]
    n_tokens = sum(map(len, sample))
    begun = time.perf_counter()
    factors, _ = fit_curvature(model, sample, np.arange(len(sample), dtype=np.uint64), config, clock)
    seconds = time.perf_counter() - begun
    for name in ("factors", "eigenvalues"):
        if (stage := clock.seconds.get(f"fit: {name}")) is not None:
            costs[name] = max(0.0, stage / n_tokens - plain)
    costs["eigenvectors"] = seconds - sum(s for name, s in clock.seconds.items() if name.startswith("fit: "))
    return factors, costs


def _repeated(factors: SeedFactors, n_seeds: int) -> SeedFactors:
    """The factors of a few seeds, repeated until they are those of `n_seeds` seeds."""
    bounds = factors.column_offsets.tolist()
    n = len(bounds) - 1
    order = [seed % n for seed in range(n_seeds)]
    columns = torch.cat([torch.arange(bounds[seed], bounds[seed + 1]) for seed in order]).to(factors.u.device)
    widths = torch.tensor([bounds[seed + 1] - bounds[seed] for seed in order])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), widths.cumsum(0)])
    u, v = factors.u[:, columns].contiguous(), factors.v[:, columns].contiguous()
    return SeedFactors(u, v, offsets, factors.energy[order])


def _nothing(*_: object) -> None:
    """The sink of a plain pass."""


def _timed(work: Callable[[], object], model: Model) -> float:
    begun = time.perf_counter()
    work()
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return time.perf_counter() - begun


def _share(layers: Sequence[Layer], some: Sequence[Layer], work: Callable[[Layer], int]) -> float:
    """The work of all layers over that of some."""
    return sum(map(work, layers)) / sum(map(work, some))


def _products(layer: Layer) -> int:
    """Work that goes by the area of the factors, as sums and rotations do."""
    own_input = layer.width**2 if layer.input_name == layer.name else 0
    return own_input + layer.out_features**2 + layer.width * layer.out_features


def _sides(layer: Layer) -> int:
    """Work that goes by the sides of a layer, as scores and sketches do."""
    return layer.width + layer.out_features


def _cubes(layer: Layer) -> int:
    """Work of the eigenvectors."""
    own_input = layer.width**3 if layer.input_name == layer.name else 0
    return own_input + layer.out_features**3
