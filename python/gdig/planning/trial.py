"""A trial of some seconds: what each step of a run costs a token or a seed, by the very code of the run.

The trial takes one batch, and one layer of each shape. A step's cost beside the plain pass goes by
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
from gdig.model.batches import make_batches
from gdig.model.capture import GradientPass
from gdig.model.causal_model import Model
from gdig.model.layers import Layer
from gdig.passes.influence_pass import make_influence_pass
from gdig.progress import Bar, Progress

_TIMES = 3
"""Times that the plain pass of the batch is measured, for its median and spread."""
_TOKENS = 1024
"""Most tokens of the batch on a CPU, where larger ones gain nothing; elsewhere the batch is as large as in the run."""
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
        spread: half the range of the repeated plain pass over its median.
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
    """Shows nothing, and measures the seconds of each stage by `clock`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(quiet=True)
        self.seconds: dict[str, float] = {}
        self._seconds_now = clock

    @contextmanager
    def stage(self, name: str, total: int | None, unit: str = "rows", done: int = 0) -> Iterator[Bar]:
        """Measure a stage."""
        begun = self._seconds_now()
        with super().stage(name, total, unit, done) as bar:
            yield bar
        self.seconds[name] = self._seconds_now() - begun


def run_trial(
    model: Model,
    examples: Sequence[Example],
    seeds: Sequence[Example],
    config: Config,
    token_batch_size: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Rates:
    """Measure every step on one batch.

    Args:
        model: the model with its layers, on its device.
        examples: rows of the pool, from which the batch is made.
        seeds: the seeds.
        config: the options of the run.
        token_batch_size: of the run.
        clock: seconds from any origin, never going back.

    Raises:
        ModelError: as the steps of a run raise it, for instance when no row has a finite loss.
    """
    begun = clock()
    size = min(token_batch_size, _TOKENS) if model.device.type == "cpu" else token_batch_size
    rows = _typical_rows(examples, size, model)
    (batch,) = make_batches(rows, size, window=model.window)
    n_tokens = sum(map(len, rows))
    small = replace(model, layers=representatives(model.layers))
    gradients = GradientPass(small, config.loss_reduction)

    def plain_pass() -> float:
        started = clock()
        gradients.run(batch, _nothing)
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        return (clock() - started) / n_tokens

    plain_pass()  # for buffers, threads and caches
    times = [plain_pass() for _ in range(_TIMES)]
    plain = median(times)
    stages = StageClock(clock)
    factors, fit_costs = _trial_fit(small, rows, config, stages, plain, clock)
    shown = [seeds[round(i * (len(seeds) - 1) / max(1, _SEEDS - 1))] for i in range(min(_SEEDS, len(seeds)))]
    seed_factors, report = precondition_seeds(small, factors, shown, rows[: config.probe_rows], config, stages)
    # The pass of a seed goes through the whole graph, but its products are those of the trial's layers alone.
    seed_pass = plain * float(np.mean([len(seed) for seed in shown]))
    seed_products = max(0.0, stages.seconds["fit: seeds"] / len(shown) - seed_pass)
    many = [_repeated(f, len(seeds)) for f in seed_factors]
    sweep = make_influence_pass(small, many, config, stages, [f for f in factors if f is not None])
    sweep.batch_runner.token_batch_size = size
    sweep.compute(rows[:1])
    started = clock()
    sweep.compute(rows)
    sweep_s = (clock() - started) / n_tokens
    squares, sides, cubes = (_share(model.layers, small.layers, work) for work in (_products, _sides, _cubes))
    return Rates(
        plain=plain,
        factors=fit_costs["factors"] * squares,
        eigenvectors=fit_costs["eigenvectors"] * cubes,
        eigenvalues=fit_costs["eigenvalues"] * squares,
        seed=seed_products * squares + seed_pass,
        columns=report.columns / len(shown) * len(model.layers) / len(small.layers),
        sweep=max(0.0, sweep_s - plain) * sides,
        spread=(max(times) - min(times)) / 2 / plain,
        seconds=clock() - begun,
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


def _typical_rows(examples: Sequence[Example], size: int, model: Model) -> list[Example]:
    """The rows of a full batch around the median length, as most batches of a run are."""
    batches = make_batches(examples, size, window=model.window)
    return [examples[int(row)] for row in batches[len(batches) // 2].rows]


def _trial_fit(
    model: Model, rows: Sequence[Example], config: Config, stages: StageClock, plain: float, clock: Callable[[], float]
) -> tuple[Sequence[Factors | None], dict[str, float]]:
    """Fit on a few rows: the factors, and the cost of each part beside the plain pass."""
    costs = dict.fromkeys(("factors", "eigenvectors", "eigenvalues"), 0.0)
    if config.inversion == "identity":
        return [None] * len(model.layers), costs
    n_tokens = sum(map(len, rows))
    begun = clock()
    factors, _ = fit_curvature(model, rows, np.arange(len(rows), dtype=np.uint64), config, stages)
    seconds = clock() - begun
    for name in ("factors", "eigenvalues"):
        if (stage := stages.seconds.get(f"fit: {name}")) is not None:
            costs[name] = max(0.0, stage / n_tokens - plain)
    costs["eigenvectors"] = seconds - sum(s for name, s in stages.seconds.items() if name.startswith("fit: "))
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
