"""Shards of a pass: which are missing, which belong to a part, and how they are written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from gdig.background import Background
from gdig.config.config import Config
from gdig.passes.encode_ahead import Feed
from gdig.passes.row_pass import RowPass
from gdig.run.session import Workspace
from gdig.store.sketches import SketchStore


def write_missing(
    work: Workspace, rows: RowPass, store: SketchStore, missing: Sequence[int], title: str, *, quiet: bool = False
) -> None:
    """Write the shards `missing` of a store, whoever is free taking the next: every rank is here with the same
    arguments.

    Args:
        work: this rank's.
        rows: the pass.
        store: with `rows_per_shard` of the pool's rows in a shard.
        missing: numbers of shards.
        title: what the bar is called.
        quiet: say nothing of rows that cannot be used: an earlier pass has.
    """
    ranks, n, step = work.ranks, len(work.candidates), store.rows_per_shard
    spans = [(shard * step, min(n, (shard + 1) * step)) for shard in missing]
    workers = resolve_workers(work.config, rows.model.device, len(spans))
    feed = Feed(work, spans, rows.batch_runner.token_batch_size, workers)
    done = n - sum(stop - start for start, stop in spans)
    with work.progress.stage(title, n, done=done) as shown:
        bar = ranks.shared_bar(shown)
        # Written behind the next shard's pass; leaving the block waits for what is not written yet.
        with Background() as writer:
            for number, encoded in feed.over(ranks.claim(len(missing))):
                ranks.doing(f"{title}, rows {encoded.start} to {encoded.stop - 1}")
                writer.submit(store.write_shard, missing[number], rows.shard(encoded, bar, quiet=quiet))
        ranks.doing(f"{title}, all shards taken")
        ranks.gather(None, bar)


def open_or_create(path: Path, work: Workspace) -> SketchStore:
    """The store of a pass, empty if there was none."""
    if SketchStore.exists(path):
        return SketchStore.open(path)
    c = work.config
    return SketchStore.create(path, c.projection_dim, dtype=c.sketch_dtype, rows_per_shard=c.rows_per_shard)


def in_part(shard: int, part: str | None) -> bool:
    """Whether a shard belongs to the part "K/N" of a sweep: shards K - 1, K - 1 + N, ...; None is all of it."""
    if part is None:
        return True
    k, n = map(int, part.split("/"))
    return shard % n == k - 1


def resolve_workers(config: Config, device: torch.device, shards: int) -> int:
    """How many processes tokenise ahead: as asked; by default none on the CPU, whose cores the model needs, nor for a
    pool of a few shards, whose pass may be over before they have started."""
    if config.workers is not None:
        return config.workers
    if device.type == "cpu" or shards < 4:
        return 0
    return max(1, min(4, (os.cpu_count() or 2) // max(1, torch.cuda.device_count()) - 1))
