"""The sweep stage: write the missing shards, then count the rows of the pool and measure the health of the seeds."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from gdig.influence.fit import check_dtype, read_curvature, read_seed_factors
from gdig.influence.sweep_plan import plan_sweep
from gdig.model.batch_size import room
from gdig.passes.duplicates import count_duplicates
from gdig.passes.influence_pass import make_forward_pass, make_influence_pass, sketch_scale
from gdig.passes.row_pass import RowPass
from gdig.passes.seed_health import measure_seed_health, seed_warnings
from gdig.passes.shards import in_sweep_part, open_or_create, write_missing
from gdig.run.record import RowCounts
from gdig.run.resume_files import run_origin
from gdig.run.session import Workspace
from gdig.store.sketches import SketchStore
from gdig.store.tensor_file import write_tensors


def sweep_stage(work: Workspace) -> bool:
    """Write the missing shards of the sweep, or those of them that the option `sweep_part` includes.

    When all shards are on disk, count the rows of the pool and measure the health of the seeds.

    Returns:
        Whether all shards are on disk.
    """
    config, run, n = work.config, work.run, len(work.candidates)
    store = open_or_create(work.layout.sweep, work)
    missing = [shard for shard in store.missing(n) if in_sweep_part(shard, config.sweep_part)]
    if missing:
        run.update("sweep", rows=n)
        arguments: dict[str, Any] = {
            "missing": missing,
            "dtype": run.fit.dtype,
            "scale": run.sweep.scale,
            "token_batch_size": run.sweep.token_batch_size,
            "dense_bytes": run.sweep.dense_bytes,
            "origin": run_origin(work.layout),
        }
        work.ranks.task("sweep", **arguments)
        sweep_on_ranks(work, **arguments)
    n_missing = len(store.missing(n))
    if n_missing:
        n_shards = -(-n // store.rows_per_shard)
        work.progress.say(
            f"sweep: {n_shards - n_missing} of {n_shards} shards are done; gdig merge adds those of other parts"
        )
        return False
    store = SketchStore.open(work.layout.sweep)
    counts = count_rows(store, work)
    health, warnings = None, []
    if config.gradients:
        assert run.fit.seeds is not None  # the fit stage is done
        losses = run.fit.seeds.losses
        health = measure_seed_health(store, losses)
        warnings = seed_warnings(health, losses, config.loss_reduction, lambda seed: work.seed_corpus.where(seed))
    run.update("sweep", counts=counts, seed_health=health, warnings=tuple(warnings))
    texts = [f"{count:,} {name.replace('_', ' ')}" for name, count in asdict(counts).items()]
    work.progress.say("sweep: " + ", ".join(texts))
    for warning in warnings:
        work.progress.warn(warning)
    return True


def sweep_on_ranks(
    work: Workspace,
    missing: list[int],
    dtype: str,
    scale: float | None,
    token_batch_size: int | None,
    dense_bytes: int | None,
    origin: str,
) -> None:
    """Write the missing shards. All ranks call this with the same arguments; a free rank takes the next shard.

    Args:
        work: the workspace of this rank.
        missing: the numbers of the shards to write.
        dtype: the name of the dtype of the fit.
        scale: a factor for the sketches. None: rank 0 computes and records it.
        token_batch_size: the resolved option. None: rank 0 resolves and records it.
        dense_bytes: the memory of the seeds' dense gradients. None: rank 0 plans and records it.
        origin: a hash of the inputs and options that the rows depend on (`run_origin`).
    """
    ranks, config = work.ranks, work.config
    rows, batch_limit = _make_pass(work, dtype, dense_bytes)
    if scale is None or token_batch_size is None:
        if ranks.main:
            probe = work.sample("probe", config.probe_rows)[0]
            token_batch_size = rows.find_batch_size(probe, batch_limit)
            scale = 1.0
            if config.gradients:
                with work.progress.stage("sweep: scale", len(probe)) as bar:
                    scale = sketch_scale(rows, probe, bar)
            work.run.update("sweep", scale=scale, token_batch_size=token_batch_size)
        scale, token_batch_size = ranks.gather([scale, token_batch_size])[0]
    rows.scale = scale
    if config.token_batch_size == "auto":  # the bits depend on it, so every start and rank takes the same
        rows.batch_runner.token_batch_size = token_batch_size
    if ranks.main and not (file := work.layout.seed_sketches).exists():
        with work.progress.stage("sweep: seeds", len(work.seed_examples)) as bar:
            seeds = rows.compute(work.seed_examples, bar)
        hidden = seeds.hidden.astype(np.float16)
        write_tensors(file, {"sketch": seeds.sketch * scale, "hidden": hidden, "influence": seeds.numbers})
    store = SketchStore.open(work.layout.sweep)
    write_missing(work, rows, store, missing, "sweep", origin)


def _make_pass(work: Workspace, dtype: str, dense_bytes: int | None) -> tuple[RowPass, int | None]:
    """Make the pass of the sweep for the model of the fit, whose dtype is `dtype`. See `sweep_on_ranks`.

    Returns:
        The pass, and the bytes that its batches may take; None where the system does not say.
    """
    config, ranks, model = work.config, work.ranks, work.model
    # Before the seeds are read: the plan counts their bytes.
    limit = room(model, 1 / ranks.local_world if model.device.type == "cpu" else 1.0)
    if not config.gradients:
        check_dtype(work, dtype)
        return make_forward_pass(model, config, work.progress), limit
    factors = read_curvature(work) if config.in_fisher_space else None
    seeds = read_seed_factors(work, dtype)
    longest = max(len(seed) for seed in work.seed_examples)
    plan = plan_sweep(model, config, seeds, limit=limit, longest=longest, dense_bytes=dense_bytes)
    if dense_bytes is None:
        dense_bytes = int(ranks.gather(plan.dense_bytes)[0])
        if ranks.main:
            work.run.update("sweep", dense_bytes=dense_bytes)
    return make_influence_pass(model, seeds, config, work.progress, factors, dense_bytes), plan.limit


def count_rows(store: SketchStore, work: Workspace) -> RowCounts:
    """Count the rows and tokens of a finished sweep."""
    counts = dict.fromkeys(("rows", "tokens", "not_usable", "not_finite", "cut"), 0)
    for shard in range(store.n_shards):
        tokens, valid = store.tensor(shard, "tokens"), store.tensor(shard, "valid")
        counts["rows"] += len(tokens)
        counts["tokens"] += int(tokens.sum(dtype=np.int64))
        counts["not_usable"] += int(((valid == 0) & (tokens == 0)).sum())
        counts["not_finite"] += int(((valid == 0) & (tokens > 0)).sum())
        counts["cut"] += int((store.tensor(shard, "cut") > 0).sum())
    repeated, equal = count_duplicates(store, [seed.hash for seed in work.seed_examples])
    return RowCounts(**counts, repeat_another=repeated, equal_to_a_seed=equal)
