"""The sweep stage: the shards that are missing, and what the finished pool holds."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from gdig.influence.fit import read_curvature, read_seed_factors
from gdig.passes.duplicates import count_duplicates
from gdig.passes.influence_pass import make_influence_pass, sketch_scale
from gdig.passes.seed_health import look_at_seeds, warn_of_seeds
from gdig.passes.shards import in_part, open_or_create, write_missing
from gdig.run.record import RowCounts
from gdig.run.session import Workspace
from gdig.store.sketches import SketchStore
from gdig.store.tensor_file import write_tensors


def sweep_stage(work: Workspace) -> bool:
    """Write the shards of the sweep that are missing, or those of them that `sweep_part` names; when all are there,
    count what the pool turned out to hold. Returns whether all are there."""
    config, run, n = work.config, work.run, len(work.candidates)
    store = open_or_create(work.layout.sweep, work)
    missing = [shard for shard in store.missing(n) if in_part(shard, config.sweep_part)]
    if missing:
        run.update("sweep", rows=n)
        arguments: dict[str, Any] = {
            "missing": missing,
            "dtype": run.fit.dtype,
            "scale": run.sweep.scale,
            "token_batch_size": run.sweep.token_batch_size,
        }
        work.ranks.task("sweep", **arguments)
        sweep_shards(work, **arguments)
    left = store.missing(n)
    if left:
        whole = -(-n // store.rows_per_shard)
        work.progress.say(
            f"sweep: {whole - len(left)} of {whole} shards are there; gdig merge adds those of other parts"
        )
        return False
    store = SketchStore.open(work.layout.sweep)
    counts = count_rows(store, work)
    assert run.fit.seeds is not None  # the fit is done
    losses = run.fit.seeds.losses
    health = look_at_seeds(store, losses)
    warnings = warn_of_seeds(health, losses, config.loss_reduction, lambda seed: work.seed_corpus.where(seed))
    run.update("sweep", counts=counts, seed_health=health, warnings=tuple(warnings))
    figures = asdict(counts).items()
    work.progress.say("sweep: " + ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in figures))
    for warning in warnings:
        work.progress.warn(warning)
    return True


def sweep_shards(
    work: Workspace, missing: list[int], dtype: str, scale: float | None, token_batch_size: int | None
) -> None:
    """Write the shards `missing`, whoever is free taking the next: every rank is here with the same arguments.

    Args:
        work: this rank's.
        missing: shards to write.
        dtype: name of the dtype that the fit ran in.
        scale: of the sketches; None to have rank 0 find and record it.
        token_batch_size: what "auto" was found to be; None to have rank 0 find and record it too.
    """
    ranks, config = work.ranks, work.config
    factors = read_curvature(work) if config.sketch_space == "fisher" else None
    rows = make_influence_pass(work.model, read_seed_factors(work, dtype), config, work.progress, factors)
    if scale is None or token_batch_size is None:
        if ranks.main:
            probe = work.sample("probe", config.probe_rows)[0]
            token_batch_size = rows.find_batch_size(probe)
            scale = sketch_scale(rows, probe)
            work.run.update("sweep", scale=scale, token_batch_size=token_batch_size)
        scale, token_batch_size = ranks.gather([scale, token_batch_size])[0]
    rows.scale = scale
    if config.token_batch_size == "auto":  # the same in every start and rank, so that the bits are
        rows.batch_runner.token_batch_size = token_batch_size
    if ranks.main and not (file := work.layout.seed_sketches).exists():
        _, sketch, _ = rows.compute(work.seed_examples)
        write_tensors(file, {"sketch": sketch * scale})
    store = SketchStore.open(work.layout.sweep)
    write_missing(work, rows, store, missing, "sweep")


def count_rows(store: SketchStore, work: Workspace) -> RowCounts:
    """Count what a finished sweep holds."""
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
