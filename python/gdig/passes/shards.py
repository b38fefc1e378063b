"""Shards of a pass: open their store, and write the missing ones."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gdig.background import Background
from gdig.config.config import Config
from gdig.errors import StoreError
from gdig.model.precision import products_made_from
from gdig.passes.encode_ahead import Feed
from gdig.passes.row_pass import RowPass
from gdig.passes.shard_resume import ShardResume, batches_digest
from gdig.run.origin import continues, grown_from
from gdig.run.resume_files import remove_finished
from gdig.run.resume_layout import shard_resume_file
from gdig.run.session import Workspace
from gdig.store.resume_file import Pace, ResumeFile
from gdig.store.sketches import STORE_JSON, SketchStore


def write_missing(
    work: Workspace,
    rows: RowPass,
    store: SketchStore,
    missing: Sequence[int],
    title: str,
    origin: str,
    *,
    quiet: bool = False,
) -> None:
    """Write the missing shards of a store. All ranks call this with the same arguments; a free rank takes a shard.

    A stopped pass keeps the rows of each unfinished shard in a resume file.

    Args:
        work: the workspace of this rank.
        rows: the pass.
        store: the store of the pass.
        missing: the numbers of the missing shards.
        title: the title of the bar.
        origin: a hash of the inputs and options that the rows depend on.
        quiet: print no warning for a row that cannot be used, because an earlier pass has.
    """
    ranks, n = work.ranks, work.swept_rows
    spans = [spans_of(store, shard, n) for shard in missing]
    workers = resolve_workers(work.config, rows.model.device, len(spans))
    size = rows.batch_runner.token_batch_size  # a batch that does not fit the memory lowers it later
    feed = Feed(work, spans, size, workers)
    done = n - sum(stop - start for shard_spans in spans for start, stop in shard_spans)
    stored, tokens = _stored(store, dict(zip(missing, spans, strict=True)), n) if ranks.main else (0, 0)
    with work.progress.stage(title, n, done=done - stored) as own_bar:
        own_bar.skip(stored, tokens=tokens)
        bar = ranks.shared_bar(own_bar)
        # A shard is written during the pass of the next shard. The end of the block waits for the last one.
        with Background() as writer, rows.landing():
            pace = Pace()
            for number, encoded_spans in feed.encode(ranks.claim(len(missing))):
                shard = missing[number]
                for encoded in encoded_spans:
                    ranks.doing(f"{title}, rows {encoded.start} to {encoded.stop - 1}")
                    digest = batches_digest(encoded.hash, encoded.positions, encoded.batches)
                    made_from = rows_made_from(rows, (encoded.start, encoded.stop), digest, size, origin)
                    file = ResumeFile(shard_resume_file(store.path, shard), made_from, work.progress.warn)
                    resume = ShardResume(file, pace, writer)
                    before = encoded.start - shard * store.rows_per_shard
                    write = partial(writer.submit, _write, store, shard, before, resume)
                    rows.shard(encoded, write, bar, resume=resume, quiet=quiet)
        ranks.doing(f"{title}, all shards taken")
        ranks.gather(None, bar)
    if ranks.main:
        remove_finished(store)


def _stored(store: SketchStore, missing: Mapping[int, Sequence[tuple[int, int]]], n: int) -> tuple[int, int]:
    """Return how many of the first `n` rows are on disk and not among the `missing` spans of shards; and their tokens.

    Another rank may write a missing shard at this moment: its rows do not count.
    """
    rows = tokens = 0
    for shard in store.shards:
        start, stop = shard * store.rows_per_shard, min(n, (shard + 1) * store.rows_per_shard)
        stop = missing[shard][0][0] if shard in missing else stop
        if start < stop:
            counts = store.tensor(shard, "tokens")[: stop - start]
            rows, tokens = rows + len(counts), tokens + int(counts.sum(dtype=np.int64))
    return rows, tokens


def rows_on_disk(path: Path, origin: str, rows: int, swept: int | None) -> int:
    """Return how many of the first `rows` rows of the pool are in whole shards of a store.

    Args:
        path: the folder of the store.
        origin: what its rows are made from.
        rows: of the pool.
        swept: rows of a finished store. Its last shard may be short: appended rows come behind its own. None: it is
            not finished.
    """
    try:
        store = SketchStore.open(path, origin)
    except StoreError:  # the sweep writes it again
        return 0
    end = rows if swept is None else min(rows, swept)
    step, missing = store.rows_per_shard, store.missing(end)
    return end - sum(min(end, (shard + 1) * step) - shard * step for shard in missing)


def _write(store: SketchStore, shard: int, before: int, resume: ShardResume, tensors: dict[str, np.ndarray]) -> None:
    """Write a shard, or the rows that a growth of the pool adds after its first `before` rows."""
    if before:
        store.extend_shard(shard, before, tensors)
    else:
        store.write_shard(shard, tensors)
    resume.remove()


def spans_of(store: SketchStore, shard: int, n_rows: int) -> list[tuple[int, int]]:
    """Return the rows of a missing shard that have to be made: one span, or one for each step of growth.

    A row depends on its batch, and a batch has rows of one span alone. So the rows before a growth stay as they are,
    and a shard that is made anew has the same bits.
    """
    start, stop = shard * store.rows_per_shard, min(n_rows, (shard + 1) * store.rows_per_shard)
    if store.has_shard(shard):  # find_missing has removed every other shard that is not whole
        start = store.shard_range(shard)[1]
    return spans_between(store, start, stop)


def spans_between(store: SketchStore, start: int, stop: int) -> list[tuple[int, int]]:
    """Return rows start .. stop - 1 in spans whose batches are made by themselves: a growth of the pool ends one."""
    ends = [row for row in grown_from(store.made_from) if start < row < stop]
    return list(itertools.pairwise([start, *ends, stop]))


def rows_made_from(
    rows: RowPass, span: tuple[int, int], batches: str, token_batch_size: int, origin: str
) -> dict[str, Any]:
    """What the numbers of rows span[0] .. span[1] - 1 depend on. `batches`: of :func:`batches_digest`."""
    config = rows.config
    return {
        "rows": list(span),
        "origin": origin,
        "batches": batches,
        "token_batch_size": token_batch_size,
        "features": [rows.features.name, rows.features.columns, config.projection_dim],
        "model": [
            str(rows.model.dtype),
            rows.model.device.type,
            products_made_from(config.matmul_precision, rows.model.device),
            config.torch_compile,
        ],
    }


def open_store(path: Path, work: Workspace, origin: str) -> SketchStore:
    """Open the store of a pass, or make an empty one. A description that is damaged or foreign is written again.

    So is that of a store whose pool has grown, or whose growth is given up.

    Args:
        path: the folder of the store.
        work: the workspace of rank 0.
        origin: what the rows are made from (gdig.run.origin).

    Raises:
        StoreError: if the folder cannot be written.
    """
    config = work.config
    facts = (config.projection_dim, config.sketch_dtype, config.rows_per_shard)
    try:
        store = SketchStore.open(path, origin)
        if (store.dim, store.dtype, store.rows_per_shard) == facts:
            return store
        reason = f"{path / STORE_JSON}: describes another store"
    except StoreError as error:
        reason = str(error)
    if path.is_dir() and any(path.glob("*.safetensors")) and not _grows(path, origin):
        work.progress.warn(f"{reason}; it is written again")
    dim, dtype, rows_per_shard = facts
    return SketchStore.describe(path, dim, dtype=dtype, rows_per_shard=rows_per_shard, made_from=origin)


def _grows(path: Path, origin: str) -> bool:
    """Whether a store was described before or after a growth of its pool."""
    try:
        described = SketchStore.open(path).made_from
    except StoreError:
        return False
    return continues(origin, described) or continues(described, origin)


def find_missing(work: Workspace, store: SketchStore, n_rows: int) -> list[int]:
    """Read all shards of a store of `n_rows` rows, and return the numbers of those that have to be made.

    A shard that is damaged, or of something else, is named and removed. A sound one that lacks the rows of a growth
    stays.

    Raises:
        StoreError: naming such a shard, if it cannot be removed.
    """
    short: list[int] = []
    for shard, damage in store.damage(n_rows).items():
        if damage.state == "short":
            short.append(shard)
            continue
        work.progress.warn(f"{damage.what}; the shard is removed")
        try:
            store.shard_path(shard).unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"{damage.what}; it cannot be removed: {error.strerror or error}") from None
    return sorted([*short, *store.absent(n_rows)])


def in_sweep_part(shard: int, sweep_part: str | None) -> bool:
    """Whether the option `sweep_part` includes a shard. "K/N" includes K - 1, K - 1 + N, ...; None includes all."""
    if sweep_part is None:
        return True
    k, n = map(int, sweep_part.split("/"))
    return shard % n == k - 1


def resolve_workers(config: Config, device: torch.device, shards: int) -> int:
    """Return how many processes tokenise ahead: the option `workers`, or a default.

    The default is 0 on the CPU, because the model needs its cores. The default is also 0 for fewer than four shards,
    because their pass can end before the processes have started.
    """
    if config.workers is not None:
        return config.workers
    if device.type == "cpu" or shards < 4:
        return 0
    return max(1, min(4, (os.cpu_count() or 2) // max(1, torch.cuda.device_count()) - 1))
