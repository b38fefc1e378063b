"""Make the plan of a run: a sample of the pool, the memory from shapes, the time from a trial, the disk."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from gdig.config.config import Config
from gdig.config.layer_choice import DEFAULT_LAYERS, LayerChoice, parse_layers
from gdig.data.fingerprint import fingerprint_paths
from gdig.data.rendering import rendered_otherwise
from gdig.errors import StoreError
from gdig.influence.fit import FEWEST_SEEDS
from gdig.influence.memory_plan import MemoryPlan, plan_memory
from gdig.influence.sweep_plan import plan_sweep
from gdig.model.batch_size import MEMORY_SHARE, room
from gdig.model.causal_model import Model
from gdig.model.directory import model_directory
from gdig.model.free_memory import free_host_memory, resident_memory
from gdig.model.token_memory import TokenMemory
from gdig.planning.disk import disk_bytes, free_disk, require_disk
from gdig.planning.memory import gib, passes_of, require_memory, require_weights
from gdig.planning.pass_trial import block_number
from gdig.planning.pool_size import PoolSize, measure_pool
from gdig.planning.report import RunPlan
from gdig.planning.selection_trial import try_selection
from gdig.planning.stages import Expected, StagePlan
from gdig.planning.stopwatch import Stopwatch
from gdig.planning.trial import Rates, run_trial, seed_shapes
from gdig.run.directory import settled_record
from gdig.run.origin import sweep_origin
from gdig.run.record import RunRecord
from gdig.run.session import Workspace
from gdig.store.sketches import SketchStore

_LEAST_SPREAD = 0.1
"""What the time is off by at least, on a machine without other work (benches/plan.py)."""
_WORTH = 0.2
"""Share of the time that a change has to save to be named."""
_FIT_ROWS = (2000, 1000, 500)
_SEEDS = 64
"""Seeds that rank a pool well."""
_UPPER = 0.25
"""Share of the depth that is named as the cheaper choice of layers."""


def make_plan(work: Workspace, clock: Callable[[], float] = time.perf_counter) -> RunPlan:
    """Plan a run: read a sample of the pool, load the model, and pass a batch for a trial. Nothing is written.

    Args:
        work: the workspace. Its run directory is read, and not opened.
        clock: seconds from any origin, never going back.

    Raises:
        GdigError: whatever would stop the run before its first stage: options, inputs, the model; other options than
            those of the run in run_path; memory that does not hold a pass; a disk without the room.
    """
    config = work.config
    record = settled_record(work.layout, config)
    begun = clock()
    seeds, renderings = work.seed_examples, work.renderings  # opens inputs and tokenizer, as a start does
    load_s = clock() - begun
    pool = measure_pool(work, clock)
    require_weights(config)
    other_memory = resident_memory()
    begun = clock()
    fingerprint_paths([model_directory(config)])
    model = work.model
    load_s += clock() - begun
    watch = Stopwatch(clock, model.device)
    counted, limit = TokenMemory.count(model), room(model)
    planner = _Planner(config, pool, len(seeds), sum(map(len, seeds)), max(map(len, seeds)), counted, limit)
    memory = planner.fit(model) if config.gradients else None
    checkpointing = memory is not None and memory.gradient_checkpointing and model.save_memory()
    batch = memory.token_batch_size if memory is not None else planner.least_batch(model)
    rates, sweep = run_trial(model, pool.examples, seeds, config, batch, counted, limit, watch)
    if memory is not None:
        memory = planner.fit(model, rates)
    selection = try_selection(config, pool, watch)
    numbers = block_number(model.layers)
    expected = Expected(
        config, model, pool, len(seeds), planner.seed_tokens, memory, sweep, rates, selection, numbers[-1] + 1, load_s
    )
    passes = passes_of(model, config, len(seeds), memory, sweep)
    free = None if limit is None else int(limit / MEMORY_SHARE)
    require_memory(passes, free)
    stages = _with_done(expected.stages(), work, record, pool.rows)
    disk = disk_bytes(model, config, pool.rows, len(seeds), rates.columns, selection.n_clusters, memory)
    done = {name for name in ("fit", "sweep", "cluster") if _share_done(name, work, record, pool.rows) == 1}
    require_disk(disk, done, free_disk(work.path), work.path)
    return RunPlan(
        model=model.describe(),
        layers=tuple(layer.name for layer in model.layers),
        coverage=model.coverage.share,
        pool=pool,
        seeds=len(seeds),
        seed_tokens=planner.seed_tokens,
        renderings=renderings,
        stages=tuple(stages),
        spread=math.hypot(max(_LEAST_SPREAD, rates.passes.spread), pool.error / pool.tokens),
        token_batch_size=memory.token_batch_size if memory is not None else None,
        sweep_batch_size=sweep.token_batch_size,
        dense_bytes=sweep.dense_bytes,
        partitions=tuple(len(partition) for partition in memory.partitions) if memory is not None else (),
        memory=passes,
        other_memory=other_memory,
        free_memory=free,
        disk=disk,
        free_disk=free_disk(work.path),
        rates=rates,
        notes=tuple(_notes(config, model, pool, len(seeds), memory, checkpointing, rendered_otherwise(renderings))),
        cheaper=tuple(_cheaper(expected, planner, stages)),
    )


@dataclass(frozen=True)
class _Planner:
    """Plans the memory of fits with other layers, samples or seeds."""

    config: Config
    pool: PoolSize
    n_seeds: int
    seed_tokens: int
    longest_seed: int
    counted: TokenMemory
    limit: int | None

    @property
    def longest(self) -> int:
        return max(self.pool.longest, self.longest_seed)

    def least_batch(self, model: Model) -> int:
        """The batch of a sweep without gradients."""
        return plan_sweep(
            model, self.config, [], limit=self.limit, longest=self.longest, token_memory=self.counted
        ).token_batch_size

    def fit(self, model: Model, rates: Rates | None = None) -> MemoryPlan:
        """Plan a fit. `rates` tells the columns of a seed; without them, a seed has as many as its rank allows."""
        typical = self.config.seed_rank
        if rates is not None and self.n_seeds:
            typical = -(-sum(rates.columns) // (self.n_seeds * len(rates.columns)))
        on_cpu, host_free = model.device.type == "cpu", free_host_memory()
        return plan_memory(
            model,
            self.config,
            limit=self.limit,
            typical=typical,
            longest=self.longest,
            sample_tokens=int(min(self.pool.rows, self.config.fit_rows) * self.pool.mean_tokens),
            n_seeds=self.n_seeds,
            host_limit=None if on_cpu or host_free is None else int(host_free * MEMORY_SHARE),
            token_memory=self.counted,
        )


def _with_done(stages: list[StagePlan], work: Workspace, record: RunRecord | None, rows: int) -> list[StagePlan]:
    """The stages, with what the run has of them."""
    curvature = record is not None and record.stages.fit is not None and record.stages.fit.curvature is not None
    shares = {name: _share_done(name, work, record, rows) for name in ("fit", "sweep", "cluster")}
    done = []
    for stage in stages:
        name = stage.name.partition(":")[0]
        share = shares.get(name, 0.0)
        if stage.name in ("fit: factors", "fit: eigenvectors", "fit: eigenvalues") and curvature:
            share = 1.0
        if stage.name == "sweep: seeds" and share > 0:
            share = 1.0
        done.append(replace(stage, done=share))
    return done


def _share_done(name: str, work: Workspace, record: RunRecord | None, rows: int) -> float:
    """The share of a stage that the run has: all of a finished one, and whole shards of a sweep."""
    stage = getattr(record.stages, name) if record is not None else None
    if stage is None:
        return 0.0
    if name == "sweep" and record is not None and SketchStore.exists(work.layout.sweep):
        try:
            store = SketchStore.open(work.layout.sweep, sweep_origin(record))
        except StoreError:  # the sweep writes it again
            return 0.0
        step = store.rows_per_shard
        missing = sum(min(rows, (shard + 1) * step) - shard * step for shard in store.missing(rows))
        return 1 - missing / rows
    return 1.0 if stage.state == "done" else 0.0


def _notes(
    config: Config,
    model: Model,
    pool: PoolSize,
    n_seeds: int,
    memory: MemoryPlan | None,
    checkpointing: bool,
    otherwise: str | None,
) -> Iterator[str]:
    if otherwise is not None:
        yield otherwise
    if pool.not_usable:
        yield f"{pool.not_usable:.1%} of the sampled rows cannot be used; the first: {pool.first_error}"
    if config.gradients and n_seeds < FEWEST_SEEDS:
        yield f"only {n_seeds} seeds; fewer than {FEWEST_SEEDS} order a pool little better than chance; use {_SEEDS}"
    if config.gradients and model.coverage.warning is not None:
        yield model.coverage.warning
    if checkpointing:
        yield "the longest rows fit with gradient_checkpointing alone, which is switched on"
    if memory is not None and len(memory.partitions) > 1:
        yield (
            f"the sums of all layers do not fit the {gib(memory.limit or 0)} that the plan may take, so the fit takes "
            f"{len(memory.partitions)} passes over its sample instead of one"
        )
    if config.torch_compile:
        yield "the trial is not compiled; torch_compile changes the time"


def _cheaper(expected: Expected, planner: _Planner, stages: list[StagePlan]) -> Iterator[tuple[str, float]]:
    """Changes that would save a fifth of the time or more, with the seconds of the run after the change."""
    done = {stage.name: stage.done for stage in stages}
    total = sum(stage.left_s for stage in stages)
    config, model, rates = expected.config, expected.model, expected.rates

    def left(other: Expected) -> float:
        return sum(replace(stage, done=done.get(stage.name, 0.0)).left_s for stage in other.stages())

    def worth(flag: str, other: Expected) -> Iterator[tuple[str, float]]:
        seconds = left(other)
        if seconds <= (1 - _WORTH) * total:
            yield flag, seconds

    if not config.gradients:
        return
    for rows in _FIT_ROWS:
        if rows < min(config.fit_rows, planner.pool.rows):
            changes = list(worth(f"--fit-rows {rows}", replace(expected, config=config.with_options(fit_rows=rows))))
            yield from changes
            if changes:
                break
    if expected.n_seeds > _SEEDS:
        tokens = expected.seed_tokens * _SEEDS // expected.n_seeds
        yield from worth(f"{_SEEDS} seeds", replace(expected, n_seeds=_SEEDS, seed_tokens=tokens))
    choice = parse_layers(config.layers or DEFAULT_LAYERS)
    if config.filter_modules is None and choice.upper > _UPPER:
        upper = _upper_layers(model, choice)
        shapes = seed_shapes(upper, rates, expected.n_seeds)
        sweep = plan_sweep(
            upper, config, shapes, limit=planner.limit, longest=planner.longest, token_memory=planner.counted
        )
        memory = None if expected.memory is None else planner.fit(upper, rates)
        kind = "" if choice.kind == "all" else f"{choice.kind}:"
        yield from worth(f"--layers {kind}upper:{_UPPER:g}", replace(expected, model=upper, sweep=sweep, memory=memory))


def _upper_layers(model: Model, choice: LayerChoice) -> Model:
    """The model with the layers of the upper blocks alone."""
    numbers = block_number(model.layers)
    blocks = round((numbers[-1] + 1) / float(choice.upper))
    first = numbers[-1] + 1 - math.ceil(_UPPER * blocks)
    layers = [layer for layer, number in zip(model.layers, numbers, strict=True) if number >= first]
    return replace(model, layers=layers, compiled=None)
