"""The sweep stage: write the missing shards, then count the rows of the pool and measure the health of the seeds."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from gdig.background import Background
from gdig.influence.fit import check_dtype, read_curvature, read_seed_factors
from gdig.influence.sweep_memory import plan_sweep_within
from gdig.model.batch_size import room
from gdig.model.gradient_checkpointing import has_gradient_checkpointing
from gdig.nouns import counted, gib
from gdig.passes.drift import growth_warnings, measure_growth
from gdig.passes.duplicates import count_duplicates
from gdig.passes.influence_pass import make_forward_pass, make_influence_pass, sketch_scale
from gdig.passes.row_pass import RowPass
from gdig.passes.seed_health import measure_seed_health, seed_warnings
from gdig.passes.shard_resume import ShardResume, batches_digest
from gdig.passes.shards import find_missing, in_sweep_part, open_store, rows_made_from, write_missing
from gdig.run.origin import curvature_origin, pass_origin, rows_origin, seeds_origin, sweep_origin
from gdig.run.pool_files import CANDIDATES
from gdig.run.record import RowCounts
from gdig.run.resume_layout import seeds_resume_file
from gdig.run.session import Workspace
from gdig.store.resume_file import Pace, ResumeFile
from gdig.store.sketches import SketchStore
from gdig.store.tensor_file import CheckedFile


def sweep_stage(work: Workspace) -> bool:
    """Write the missing shards of the sweep, or those of them that the option `sweep_part` includes.

    When all shards are on disk, count the rows of the pool and measure the health of the seeds.

    Returns:
        Whether all shards are on disk.
    """
    config, run, n = work.config, work.run, work.swept_rows
    run.update("sweep", rows=n)
    n_shards = -(-n // config.rows_per_shard)
    if (missing := missing_of_sweep(work)) is None:
        missing, seeds_missing = list(range(n_shards)), True
    else:
        seeds_missing = _own_sketches(work).damage() is not None
    missing = [shard for shard in missing if in_sweep_part(shard, config.sweep_part)]
    if missing or seeds_missing:
        arguments: dict[str, Any] = {
            "missing": missing,
            "dtype": run.fit.dtype,
            "scale": run.sweep.scale,
            "token_batch_size": run.sweep.token_batch_size,
            "dense_bytes": run.sweep.dense_bytes,
            "origins": {
                "curvature": curvature_origin(run.record),
                "seeds": seeds_origin(run.record),
                "rows": pass_origin(run.record, "sweep"),
            },
        }
        work.ranks.task("sweep", **arguments)
        sweep_on_ranks(work, **arguments)
    store = SketchStore.open(work.layout.sweep, rows_origin(run.record))
    n_missing = len(store.missing(n))
    if n_missing:
        work.progress.say(
            f"sweep: {n_shards - n_missing} of {counted(n_shards, 'shard')} are done; gdig merge adds "
            "those of other parts"
        )
        return False
    counts = count_rows(store, work)
    health, warnings = None, []
    if config.gradients:
        assert run.fit.seeds is not None  # the fit stage is done
        losses = run.fit.seeds.losses
        health = measure_seed_health(store, losses)
        warnings = seed_warnings(health, losses, config.loss_reduction, lambda seed: work.seed_corpus.where(seed))
    measure_growth(work, store)
    run.update("sweep", counts=counts, seed_health=health, warnings=tuple(warnings))
    texts = [f"{count:,} {name.replace('_', ' ')}" for name, count in asdict(counts).items()]
    work.progress.say("sweep: " + ", ".join(texts))
    for warning in [*warnings, *growth_warnings(run.record, len(run.record.inputs[CANDIDATES]))]:
        work.progress.warn(warning)
    return True


def missing_of_sweep(work: Workspace) -> list[int] | None:
    """Read the shards of the sweep, and return the numbers of those that have to be made.

    Those that are damaged or of something else are named. None: the sweep has not been planned, so it has no shards.
    """
    run = work.run
    if run.sweep.scale is None:
        return None
    store = open_store(work.layout.sweep, work, rows_origin(run.record))
    return find_missing(work, store, work.swept_rows)


def seeds_are_swept(work: Workspace) -> bool:
    """Whether the file of the seeds' own sketches is sound; if it is not, a warning names it."""
    damage = _own_sketches(work).damage()
    if damage is not None:
        work.progress.warn(f"{damage.what}; the seeds are swept again")
    return damage is None


def _own_sketches(work: Workspace) -> CheckedFile:
    return work.layout.checked(work.layout.seed_sketches, sweep_origin(work.run.record))


def sweep_on_ranks(
    work: Workspace,
    missing: list[int],
    dtype: str,
    scale: float | None,
    token_batch_size: int | None,
    dense_bytes: int | None,
    origins: dict[str, str],
) -> None:
    """Write the missing shards. All ranks call this with the same arguments; a free rank takes the next shard.

    Args:
        work: the workspace of this rank.
        missing: the numbers of the shards to write.
        dtype: the name of the dtype of the fit.
        scale: a factor for the sketches. None: rank 0 computes and records it.
        token_batch_size: the resolved option. None: rank 0 resolves and records it.
        dense_bytes: the memory of the seeds' dense gradients. None: rank 0 plans and records it.
        origins: of the `curvature`, the `seeds` and the unscaled `rows` (gdig.run.origin).
    """
    ranks, config = work.ranks, work.config
    rows, batch_limit = _make_pass(work, dtype, dense_bytes, origins)
    if scale is None or token_batch_size is None:
        if ranks.main:
            probe = work.sample("probe", config.probe_rows)[0]
            token_batch_size = rows.find_batch_size(probe, batch_limit)
            scale = 1.0
            if config.gradients:
                with work.progress.stage("sweep: scale", len(probe)) as bar:
                    scale = sketch_scale(rows, probe, bar)
            work.run.update("sweep", scale=scale, token_batch_size=token_batch_size)
            store = open_store(work.layout.sweep, work, rows_origin(work.run.record))
            find_missing(work, store, work.swept_rows)  # removes what another sweep has left
        scale, token_batch_size = ranks.gather([scale, token_batch_size])[0]
    rows.scale = scale
    if config.token_batch_size == "auto":  # the bits depend on it, so every start and rank takes the same
        rows.batch_runner.token_batch_size = token_batch_size
    if ranks.main and (file := _own_sketches(work)).damage() is not None:
        _sweep_seeds(work, rows, scale, file, origins["rows"])
    store = SketchStore.open(work.layout.sweep)
    write_missing(work, rows, store, missing, "sweep", origins["rows"])


def _sweep_seeds(work: Workspace, rows: RowPass, scale: float, file: CheckedFile, origin: str) -> None:
    """Pass the seeds, and write their own sketches. A stopped start keeps the seeds that are done.

    Args:
        work: the workspace of rank 0.
        rows: the pass of the sweep.
        scale: a factor for the sketches.
        file: the file of the sketches.
        origin: of the unscaled rows.
    """
    seeds, size = work.seed_examples, rows.batch_runner.token_batch_size
    hashes = np.array([seed.hash for seed in seeds], np.uint64)
    digest = batches_digest(hashes, np.arange(len(seeds), dtype=np.int64), rows.batches_of(seeds))
    made_from = rows_made_from(rows, (0, len(seeds)), digest, size, origin)
    kept = ResumeFile(seeds_resume_file(work.layout.sweep), made_from, work.progress.warn)
    with work.progress.stage("sweep: seeds", len(seeds)) as bar, Background() as writer:
        numbers = rows.compute(seeds, bar, ShardResume(kept, Pace(), writer))
    hidden = numbers.hidden.astype(np.float16)
    file.write({"sketch": numbers.sketch * scale, "hidden": hidden, "influence": numbers.numbers})
    kept.remove()


def _make_pass(
    work: Workspace, dtype: str, dense_bytes: int | None, origins: dict[str, str]
) -> tuple[RowPass, int | None]:
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
    factors = read_curvature(work, origins["curvature"]) if config.in_fisher_space else None
    seeds = read_seed_factors(work, dtype, origins["seeds"])
    longest = max(len(seed) for seed in work.seed_examples)
    facts: dict[str, Any] = {"limit": limit, "longest": longest, "rows": work.swept_rows}
    saving = has_gradient_checkpointing(model.module)
    plan = plan_sweep_within(model, config, seeds, dense_bytes=dense_bytes, **facts)
    if ranks.main and has_gradient_checkpointing(model.module) and not saving:
        work.progress.say("sweep: fits with gradient_checkpointing alone, which is switched on")
    planned = int(min(ranks.gather(plan.dense_bytes)))  # bits depend on it, so all ranks take what fits each
    if planned != plan.dense_bytes:
        plan = plan_sweep_within(model, config, seeds, dense_bytes=planned, **facts)
    if ranks.main and planned != dense_bytes:
        if dense_bytes is not None:
            work.progress.warn(
                f"sweep: the dense gradients of the seeds took {gib(dense_bytes)} at an earlier start, and "
                f"now {gib(planned)} fit; scores of rows that are left may round otherwise"
            )
        work.run.update("sweep", dense_bytes=planned)
    if ranks.main and plan.from_files:
        work.progress.say(
            f"sweep: a plan takes {gib(limit or 0)}, 60 % of the free memory, which does not hold the "
            f"seeds' factors of all layers; each batch reads those of {counted(len(plan.from_files), 'layer')} from "
            "their files; more free memory, fewer seeds or fewer layers make the sweep faster"
        )
    rows = make_influence_pass(model, seeds, config, work.progress, factors, plan.dense_bytes, plan.from_files)
    return rows, plan.limit


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
