"""Make the plan of a run: a sample of the pool, the memory from shapes, the time from a trial, the disk."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from gdig.config.config import Config
from gdig.data.fingerprint import fingerprint_paths
from gdig.data.rendering import rendered_otherwise
from gdig.influence.conjugate_gradients import search_bytes
from gdig.influence.fit import FEWEST_SEEDS
from gdig.influence.memory_plan import MemoryParts, MemoryPlan, beyond_share
from gdig.influence.refusal import fits
from gdig.influence.sweep_plan import SweepPlan
from gdig.model.batch_size import MEMORY_SHARE, room
from gdig.model.causal_model import Model
from gdig.model.directory import model_directory
from gdig.model.free_memory import resident_memory
from gdig.model.freed_memory import FreedMemory
from gdig.model.gradient_checkpointing import has_gradient_checkpointing
from gdig.model.token_memory import TokenMemory, weight_bytes
from gdig.nouns import counted, gib
from gdig.planning.cheaper import SEEDS, cheaper_choices
from gdig.planning.disk import disk_bytes, free_disk, require_disk
from gdig.planning.left import Left, what_is_left
from gdig.planning.memory import passes_of, require_memory, require_weights
from gdig.planning.pass_trial import block_number
from gdig.planning.planner import Planner
from gdig.planning.pool_size import PoolSize, measure_pool
from gdig.planning.redundancy_trial import RedundancyCosts, try_redundancy
from gdig.planning.report import RunPlan
from gdig.planning.run_trial import Rates, empty_factors, run_trial
from gdig.planning.selection_trial import expected_limit, try_selection
from gdig.planning.stages import Expected, StagePlan, done_stages, selection_stages, with_done
from gdig.planning.stopwatch import Stopwatch
from gdig.run.directory import settled_record
from gdig.run.record import RunRecord
from gdig.run.session import Workspace

_MUCH_HELD = 1 << 28
"""Memory of chosen rows that is worth a note, in bytes."""
_LEAST_SPREAD = 0.1
"""What the time is off by at least, on a machine without other work (benches/plan.py)."""


def make_plan(work: Workspace, clock: Callable[[], float] = time.perf_counter) -> RunPlan:
    """Plan a run: read a sample of the pool, load the model, and pass a batch for a trial. Nothing is written.

    Memory, disk and refusals are those of the stages to come. Where none of them needs the model, it is not loaded.

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
    expected_limit(config, pool)
    left = what_is_left(work, record, pool.rows)
    facts = _Facts(work, record, left, pool, sum(map(len, seeds)), renderings, load_s)
    if not left.model:
        return _plan_of_choice(facts, clock)
    require_weights(config)
    other_memory = resident_memory()
    begun = clock()
    fingerprint_paths([model_directory(config)])
    model = work.model
    load_s += clock() - begun
    watch = Stopwatch(clock, model.device)
    counted, limit = TokenMemory.count(model), room(model)
    planned = config if left.fit or left.sweeps else _forward_alone(config)
    planner = Planner(planned, pool, seeds, counted, limit)
    memory = planner.fit(model) if left.curvature or left.compared_rows else None
    fit = memory if left.curvature else None
    checkpointing = memory is not None and memory.gradient_checkpointing and model.save_memory()
    if checkpointing:  # from here on a graph keeps less, as in the run
        planner = replace(planner, counted=TokenMemory.count(model))
    batch = fit.token_batch_size if fit is not None else planner.sweep(model).token_batch_size
    rates, sweep = run_trial(model, pool.examples, seeds, planned, batch, planner.sweep, watch)
    other_memory = max(other_memory, _beside_weights(model))
    held, passes = _passes(planner, model, rates, fit, sweep, left)
    if not all(fits(each, limit) for each in passes.values()) and model.save_memory():  # as the passes of a run do
        planner = replace(planner, counted=TokenMemory.count(model))
        sweep = planner.sweep(model, empty_factors(model, rates.kinds, len(seeds)) if planned.gradients else ())
        held, passes = _passes(planner, model, rates, fit, sweep, left)
    checkpointing = not config.gradient_checkpointing and has_gradient_checkpointing(model.module)
    seed_partitions = planner.seed_partitions(model) if left.seeds else ()
    selection = try_selection(config, pool, watch, left.clusters)
    redundancy = try_redundancy(work, pool, watch, left)
    numbers = block_number(model.layers)
    expected = Expected(
        config=config,
        model=model,
        pool=pool,
        n_seeds=len(seeds),
        seed_tokens=planner.seed_tokens,
        memory=memory,
        seed_partitions=seed_partitions,
        sweep=sweep,
        rates=rates,
        selection=selection,
        deepest=numbers[-1] + 1,
        load_s=load_s,
        left=left,
        record=record,
        redundancy=redundancy,
    )
    free = None if limit is None else int(limit / MEMORY_SHARE)
    require_memory(passes, limit, free if config.inversion == "cg" else None)
    stages = expected.stages()
    searches = held.work // search_bytes(model)[0] if held is not None else 0
    disk = disk_bytes(model, config, pool.rows, len(seeds), rates.columns, selection.n_clusters, fit, left, searches)
    return RunPlan(
        model=model.describe(),
        layers=tuple(layer.name for layer in model.layers),
        coverage=model.coverage.share,
        **facts.of_plan(stages, rates.passes.spread, disk, redundancy),
        token_batch_size=fit.token_batch_size if fit is not None else None,
        sweep_batch_size=sweep.token_batch_size if left.sweeps or left.entries else None,
        dense_bytes=sweep.dense_bytes if left.sweep else 0,
        partitions=tuple(len(partition) for partition in fit.partitions) if fit is not None else (),
        memory=passes,
        other_memory=other_memory,
        free_memory=free,
        rates=rates,
        notes=(
            *_notes(config, model, pool, len(seeds), fit, checkpointing, rendered_otherwise(renderings)),
            *_held_note(redundancy),
            *filter(None, (beyond_share(name, held, limit) for name, held in passes.items())),
            *(_read_note(sweep) if left.sweep else ()),
        ),
        # The options of a fit that has begun are the run's.
        cheaper=() if left.begun else tuple(cheaper_choices(expected, planner, stages)),
    )


@dataclass(frozen=True)
class _Facts:
    """What is known of a run before its model is loaded."""

    work: Workspace
    record: RunRecord | None
    left: Left
    pool: PoolSize
    seed_tokens: int
    renderings: Mapping[str, tuple[str, ...]]
    load_s: float

    def of_plan(
        self, stages: list[StagePlan], spread: float, disk: dict[str, int], redundancy: RedundancyCosts
    ) -> dict[str, Any]:
        """Fields of the plan that every run has. A disk without the room is refused."""
        disk |= {"sources": redundancy.sources_bytes, "evaluation set": redundancy.excluded_bytes}
        free = free_disk(self.work.path)
        require_disk(disk, free, self.work.path)
        return {
            "pool": self.pool,
            "seeds": len(self.work.seed_examples),
            "seed_tokens": self.seed_tokens,
            "renderings": self.renderings,
            "stages": tuple(stages),
            "spread": math.hypot(max(_LEAST_SPREAD, spread), self.pool.error / self.pool.tokens),
            "disk": disk,
            "free_disk": free,
        }


def _plan_of_choice(facts: _Facts, clock: Callable[[], float]) -> RunPlan:
    """The plan of a run that has all its passes: what is left are clusters and the choice."""
    work, record, left, pool = facts.work, facts.record, facts.left, facts.pool
    config, watch = work.config, Stopwatch(clock, torch.device("cpu"))
    fit = record.stages.fit if record is not None else None
    selection = try_selection(config, pool, watch, left.clusters)
    redundancy = try_redundancy(work, pool, watch, left)
    done = done_stages(config, pool, facts.seed_tokens, record)
    start = [StagePlan("start", 0, 1, facts.load_s), StagePlan("check", 0, 1, 0.0)]
    stages = with_done([*start, *done["fit"], *done["sweep"], *selection_stages(selection, redundancy)], left)
    n_seeds = len(work.seed_examples)
    disk = disk_bytes(None, config, pool.rows, n_seeds, (), selection.n_clusters, None, left)
    otherwise = rendered_otherwise(facts.renderings)
    return RunPlan(
        model=f"{config.model}, not loaded: no stage to come needs it",
        layers=(fit.layers if fit is not None else None) or (),
        coverage=fit.coverage if fit is not None else None,
        **facts.of_plan(stages, 0.0, disk, redundancy),
        token_batch_size=None,
        sweep_batch_size=None,
        dense_bytes=0,
        partitions=(),
        memory={},
        other_memory=resident_memory(),
        free_memory=None,
        rates=None,
        notes=(*filter(None, (otherwise,)), *_held_note(redundancy)),
        cheaper=(),
    )


def _forward_alone(config: Config) -> Config:
    """The options of a trial where an evaluation set passes the model, and no row of the pool does."""
    return config.with_options(
        gradients=False, checkpoints=(), torch_compile=False, sketch_space="auto", similarity_of="hidden"
    )


def _beside_weights(model: Model) -> int:
    """Bytes that the process holds beside the weights, after a trial: passes load parts of torch that stay."""
    FreedMemory().hand_back()
    on_cpu = model.device.type == "cpu"
    return max(0, resident_memory() - (weight_bytes(model.module) if on_cpu else 0))


def _passes(
    planner: Planner, model: Model, rates: Rates, memory: MemoryPlan | None, sweep: SweepPlan, left: Left
) -> tuple[MemoryParts | None, dict[str, MemoryParts]]:
    """What the largest pass of the seeds holds, and what each pass to come does."""
    config, held = planner.config, None
    if left.seeds:
        held = planner.seeds(model, rates, planner.seed_partitions(model))
    n_seeds = len(planner.seed_examples)
    passes = passes_of(model, config, n_seeds, memory, held, sweep, planner.seeds_activations)
    to_come = {
        "sweep": left.sweep > 0 or left.entries,
        "checkpoint seeds": any(left.checkpoints),
        "checkpoint": any(left.checkpoints),
    }
    return held, {name: each for name, each in passes.items() if to_come.get(name, True)}


def _held_note(costs: RedundancyCosts) -> Iterator[str]:
    if costs.held_bytes > _MUCH_HELD:
        yield f"max_similarity holds the chosen rows in {gib(costs.held_bytes)} of memory, beside what each pass holds"


def _read_note(sweep: SweepPlan) -> Iterator[str]:
    if sweep.from_files:
        yield (
            "sweep: 60 % of the free memory does not hold the seeds' factors of all layers; each batch reads "
            f"those of {counted(len(sweep.from_files), 'layer')} from their files"
        )


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
        yield f"only {n_seeds} seeds; fewer than {FEWEST_SEEDS} order a pool little better than chance; use {SEEDS}"
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
