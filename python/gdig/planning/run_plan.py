"""Make the plan of a run: a sample of the pool, the memory from shapes, the time from a trial, the disk."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

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
from gdig.passes.drift import CURVATURE_ROWS
from gdig.passes.shards import rows_on_disk
from gdig.planning.cheaper import SEEDS, cheaper_choices
from gdig.planning.disk import disk_bytes, free_disk, require_disk
from gdig.planning.memory import passes_of, require_memory, require_weights
from gdig.planning.pass_trial import block_number
from gdig.planning.planner import Planner
from gdig.planning.pool_size import PoolSize, measure_pool
from gdig.planning.redundancy_trial import RedundancyCosts, try_redundancy
from gdig.planning.report import RunPlan
from gdig.planning.run_trial import Rates, empty_factors, run_trial
from gdig.planning.selection_trial import expected_limit, try_selection
from gdig.planning.stages import Expected, StagePlan
from gdig.planning.stopwatch import Stopwatch
from gdig.run.directory import settled_record
from gdig.run.origin import rows_origin
from gdig.run.record import RunRecord
from gdig.run.session import Workspace
from gdig.store.sketches import SketchStore

_STAGES_OF_PASSES = {"sweep": "sweep", "checkpoint seeds": "checkpoint", "checkpoint": "checkpoint"}
"""The stage of each pass that is not of the fit. Whether a checkpoint is done is not looked at."""
_MUCH_HELD = 1 << 28
"""Memory of chosen rows that is worth a note, in bytes."""
_LEAST_SPREAD = 0.1
"""What the time is off by at least, on a machine without other work (benches/plan.py)."""


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
    expected_limit(config, pool)
    require_weights(config)
    other_memory = resident_memory()
    begun = clock()
    fingerprint_paths([model_directory(config)])
    model = work.model
    load_s += clock() - begun
    watch = Stopwatch(clock, model.device)
    counted, limit = TokenMemory.count(model), room(model)
    planner = Planner(config, pool, seeds, counted, limit)
    memory = planner.fit(model)
    checkpointing = memory is not None and memory.gradient_checkpointing and model.save_memory()
    if checkpointing:  # from here on a graph keeps less, as in the run
        planner = replace(planner, counted=TokenMemory.count(model))
    batch = memory.token_batch_size if memory is not None else planner.sweep(model).token_batch_size
    rates, sweep = run_trial(model, pool.examples, seeds, config, batch, planner.sweep, watch)
    other_memory = max(other_memory, _beside_weights(model))
    held, passes = _passes(planner, model, rates, memory, sweep)
    if not all(fits(each, limit) for each in passes.values()) and model.save_memory():  # as the passes of a run do
        planner = replace(planner, counted=TokenMemory.count(model))
        sweep = planner.sweep(model, empty_factors(model, rates.kinds, len(seeds)) if config.gradients else ())
        held, passes = _passes(planner, model, rates, memory, sweep)
    checkpointing = not config.gradient_checkpointing and has_gradient_checkpointing(model.module)
    seed_partitions = planner.seed_partitions(model) if config.gradients else ()
    selection, redundancy = try_selection(config, pool, watch), try_redundancy(work, pool, watch)
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
        redundancy=redundancy,
        compared_rows=_compared_rows(record, pool.rows),
    )
    done = {name for name in ("fit", "sweep", "cluster") if _share_done(name, work, record, pool.rows) == 1}
    to_do = {name: each for name, each in passes.items() if _STAGES_OF_PASSES.get(name, "fit") not in done}
    free = None if limit is None else int(limit / MEMORY_SHARE)
    require_memory(to_do, limit, free if config.inversion == "cg" else None)
    stages = _with_done(expected.stages(), work, record, pool.rows)
    searches = held.work // search_bytes(model)[0] if held is not None else 0
    disk = disk_bytes(model, config, pool.rows, len(seeds), rates.columns, selection.n_clusters, memory, searches)
    disk |= {"sources": redundancy.sources_bytes, "evaluation set": redundancy.excluded_bytes}
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
        notes=(
            *_notes(config, model, pool, len(seeds), memory, checkpointing, rendered_otherwise(renderings)),
            *_held_note(redundancy),
            *filter(None, (beyond_share(name, held, limit) for name, held in passes.items())),
            *_read_note(sweep),
        ),
        cheaper=tuple(cheaper_choices(expected, planner, stages)),
    )


def _beside_weights(model: Model) -> int:
    """Bytes that the process holds beside the weights, after a trial: passes load parts of torch that stay."""
    FreedMemory().hand_back()
    on_cpu = model.device.type == "cpu"
    return max(0, resident_memory() - (weight_bytes(model.module) if on_cpu else 0))


def _passes(
    planner: Planner, model: Model, rates: Rates, memory: MemoryPlan | None, sweep: SweepPlan
) -> tuple[MemoryParts | None, dict[str, MemoryParts]]:
    """What the largest pass of the seeds holds, and what each pass of the run does."""
    config, held = planner.config, None
    if config.gradients:
        held = planner.seeds(model, rates, planner.seed_partitions(model))
    n_seeds = len(planner.seed_examples)
    return held, passes_of(model, config, n_seeds, memory, held, sweep, planner.seeds_activations)


def _with_done(stages: list[StagePlan], work: Workspace, record: RunRecord | None, rows: int) -> list[StagePlan]:
    """The stages, with what the run has of them."""
    curvature = record is not None and record.stages.fit is not None and record.stages.fit.curvature is not None
    shares = {name: _share_done(name, work, record, rows) for name in ("fit", "sweep", "cluster")}
    done = []
    for stage in stages:
        name = stage.name.partition(":")[0]
        share = shares["fit"] if name == "check" else shares.get(name, 0.0)
        if stage.name in ("fit: factors", "fit: eigenvectors", "fit: eigenvalues") and curvature:
            share = 1.0
        if stage.name in ("sweep: scale", "sweep: seeds") and share > 0:
            share = 1.0
        done.append(replace(stage, done=share))
    return done


def _share_done(name: str, work: Workspace, record: RunRecord | None, rows: int) -> float:
    """The share of a stage that the run has: all of a finished one, and whole shards of a sweep."""
    stage = getattr(record.stages, name) if record is not None else None
    if stage is None:
        return 0.0
    if name == "sweep" and record is not None and SketchStore.exists(work.layout.sweep):
        swept = stage.rows if stage.state == "done" else None
        return rows_on_disk(work.layout.sweep, rows_origin(record), rows, swept) / rows
    return 1.0 if stage.state == "done" else 0.0


def _compared_rows(record: RunRecord | None, rows: int) -> int:
    """How many rows a start compares, old and new, because files were appended to a finished sweep."""
    sweep = record.stages.sweep if record is not None else None
    if record is None or sweep is None or sweep.rows is None or sweep.state != "done" or sweep.rows >= rows:
        return 0
    return min(CURVATURE_ROWS, record.first_rows or sweep.rows) + min(CURVATURE_ROWS, rows - sweep.rows)


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
