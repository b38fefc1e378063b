"""Make the plan of a run: a sample of the pool, the memory from shapes, the time from a trial, the disk."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from pathlib import Path

from gdig.config.config import Config
from gdig.config.layer_choice import DEFAULT_LAYERS, parse_layers
from gdig.errors import RunError
from gdig.influence.memory_plan import MemoryPlan, plan_memory
from gdig.model.batch_size import room, typical_length
from gdig.model.causal_model import Model
from gdig.model.free_memory import resident_memory
from gdig.planning.disk import disk_bytes
from gdig.planning.pool_size import PoolSize, measure_pool
from gdig.planning.report import RunPlan, StagePlan
from gdig.planning.trial import Rates, run_trial
from gdig.run.record import RunRecord, read_record
from gdig.run.session import Workspace

_CLUSTER_S = 2e-6
"""Seconds a row and cluster takes in k-means and labels, with the AVX2 kernel of one core: a small share of any run."""
_KMEANS_ROWS = 1024
_WORTH = 0.2
"""Share of the time that a change has to save to be named."""
_UPPER = 0.25
"""Share of the depth that is named as the cheaper choice of layers."""


def make_plan(work: Workspace) -> RunPlan:
    """Plan a run: read a sample of the pool, load the model, and pass a few batches of a trial.

    Raises:
        GdigError: whatever would stop the run before its first stage: options, inputs, the model; memory that does not
            hold one layer and one row; a disk without the room.
    """
    config = work.config
    other_memory = resident_memory()
    pool, seeds = measure_pool(work), work.seed_examples
    model = work.model
    fit_rows = min(pool.rows, config.fit_rows)
    memory = plan_memory(
        model,
        config,
        limit=room(model),
        typical=typical_length(seeds),
        longest=max(pool.longest, max(map(len, seeds))),
        sample_tokens=int(fit_rows * pool.mean_tokens),
        n_seeds=len(seeds),
    )
    rates = run_trial(model, pool.examples, seeds, config, memory.sweep_batch_size)
    record = _record(work)
    stages = _stages(config, pool, len(seeds), sum(map(len, seeds)), memory, rates, record)
    disk = disk_bytes(model, config, pool.rows, len(seeds), rates.columns * len(seeds))
    free_disk = _free_disk(work.path)
    _check_disk(disk, stages, free_disk, work.path)
    first, last = model.layers[0].name, model.layers[-1].name
    dtype = str(model.dtype).removeprefix("torch.")
    layers = f"{len(model.layers)} layers ({first} .. {last})"
    return RunPlan(
        model=f"{type(model.module).__name__}, {dtype} on {model.device}, {layers}",
        pool=pool,
        seeds=len(seeds),
        seed_tokens=sum(map(len, seeds)),
        stages=stages,
        spread=math.hypot(rates.spread, pool.error / pool.tokens),
        memory=memory,
        other_memory=other_memory,
        disk=disk,
        free_disk=free_disk,
        rates=rates,
        notes=tuple(_notes(pool, memory)),
        cheaper=tuple(_cheaper(config, model, pool, stages, rates)),
    )


def _stages(
    config: Config,
    pool: PoolSize,
    n_seeds: int,
    seed_tokens: int,
    memory: MemoryPlan,
    rates: Rates,
    record: RunRecord | None,
) -> tuple[StagePlan, ...]:
    """The parts of the run, with their seconds."""
    done = {name: _is_done(record, name) for name in ("fit", "sweep", "cluster")}
    fitted = done["fit"] or bool(record and record.stages.fit and record.stages.fit.curvature)
    fit_tokens, partitions = min(pool.rows, config.fit_rows) * pool.mean_tokens, len(memory.partitions)
    stages = []
    if config.inversion != "identity":
        cost = fit_tokens * (partitions * rates.plain + rates.factors)
        stages.append(StagePlan("fit: factors", fit_tokens, partitions, cost, fitted))
        stages.append(StagePlan("fit: eigenvectors", 0, 1, rates.eigenvectors, fitted))
    if config.inversion in ("ekfac", "cg"):
        cost = fit_tokens * (partitions * rates.plain + rates.eigenvalues)
        stages.append(StagePlan("fit: eigenvalues", fit_tokens, partitions, cost, fitted))
    stages.append(StagePlan("fit: seeds", seed_tokens, 1, n_seeds * rates.seed, done["fit"]))
    if config.inversion == "cg":
        # A product is four forward passes, a third of a forward and backward pass each.
        tokens = config.cg_iterations * n_seeds * min(pool.rows, config.cg_rows) * pool.mean_tokens
        stages.append(StagePlan("fit: conjugate gradients", tokens, 1, tokens * 4 / 3 * rates.plain, done["fit"]))
    cost = pool.tokens * (rates.plain + rates.sweep)
    stages.append(StagePlan("sweep", pool.tokens, 1, cost, done["sweep"]))
    for number in range(1, len(config.checkpoints) + 1):
        name = f"checkpoint {number} of {len(config.checkpoints)}"
        stages.append(StagePlan(name, pool.tokens, 1, cost, False))
    clusters = config.n_clusters or 512
    rows = pool.rows + min(pool.rows, _KMEANS_ROWS * clusters) * config.kmeans_max_iter
    stages.append(StagePlan("cluster", 0, 1, _CLUSTER_S * rows * min(clusters, pool.rows), done["cluster"]))
    return tuple(stages)


def _record(work: Workspace) -> RunRecord | None:
    """The record of the run in run_path; None without one."""
    return read_record(work.layout.record) if work.layout.record.exists() else None


def _is_done(record: RunRecord | None, name: str) -> bool:
    stage = getattr(record.stages, name) if record else None
    return stage is not None and stage.state == "done"


def _free_disk(path: Path) -> int:
    """Bytes free on the disk of a directory that may not exist yet."""
    existing = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
    return shutil.disk_usage(existing).free


def _check_disk(disk: dict[str, int], stages: tuple[StagePlan, ...], free: int, path: Path) -> None:
    """Refuse a run that its disk cannot hold."""
    done = {stage.name.partition(":")[0] for stage in stages if stage.done}
    needed = sum(size for name, size in disk.items() if name not in done)
    if needed > free:
        raise RunError(
            f"{path}: the run needs {needed / 2**30:.3g} GiB of disk, {free / 2**30:.3g} GiB are free; take another "
            "run_path, a smaller projection_dim, sketch_dtype=int8, or fewer layers"
        )


def _notes(pool: PoolSize, memory: MemoryPlan) -> list[str]:
    notes = []
    if pool.not_usable:
        notes.append(f"{pool.not_usable:.1%} of the sampled rows cannot be used; the first: {pool.first_error}")
    if pool.cut:
        notes.append(f"{pool.cut:.1%} of the sampled rows are cut to the window")
    if memory.gradient_checkpointing:
        notes.append("the longest rows fit with gradient_checkpointing alone, which is switched on")
    if len(memory.partitions) > 1:
        notes.append(
            f"the sums of all layers exceed the memory: the fit takes {len(memory.partitions)} passes over its sample "
            "instead of one"
        )
    return notes


def _cheaper(
    config: Config, model: Model, pool: PoolSize, stages: tuple[StagePlan, ...], rates: Rates
) -> Iterator[tuple[str, float]]:
    """Changes that would save a fifth of the time or more, with the seconds of the whole run after the change."""
    left = [stage for stage in stages if not stage.done]
    total = sum(stage.seconds for stage in left)
    fit_passes = sum(stage.seconds for stage in left if stage.name in ("fit: factors", "fit: eigenvalues"))
    fit_rows = min(config.fit_rows, pool.rows)
    for rows in (2000, 1000, 500):
        saved = fit_passes * (1 - rows / fit_rows)
        if rows < fit_rows and saved >= _WORTH * total:
            yield f"--fit-rows {rows}", total - saved
            break
    # Without the lower blocks the forward pass, a third of the plain pass, is as it was.
    choice = parse_layers(config.layers or DEFAULT_LAYERS)
    if config.filter_modules is None and choice.upper > _UPPER:
        share = _UPPER / choice.upper
        tokens = sum(stage.tokens * stage.passes for stage in left)
        plain = min(total, tokens * rates.plain)
        saved = (plain * 2 / 3 + (total - plain)) * (1 - share)
        if saved >= _WORTH * total:
            yield f"--layers {choice.kind}:upper:{_UPPER:g}", total - saved
