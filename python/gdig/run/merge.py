"""Put the shards of one sweep together that machines without a common disk have made, each in its copy of the run."""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gdig.config.options import STAGES
from gdig.errors import ConfigError, OtherRunError, UnfinishedRunError
from gdig.nouns import counted
from gdig.progress import Progress
from gdig.run.directory import refuse_foreign, require_run
from gdig.run.layout import FileGroup, RunLayout
from gdig.run.links import refuse_linked_folders, remove_folder
from gdig.run.lock import lock, unlock
from gdig.run.record import FitRecord, RunRecord, Stages, SweepRecord
from gdig.run.record_file import read_record, write_record
from gdig.run.resume_files import remove_finished
from gdig.store.atomic import replacing
from gdig.store.sketches import SketchStore
from gdig.store.tensor_file import verify_file


@dataclass(frozen=True)
class _Source:
    """A run whose shards are merged."""

    layout: RunLayout
    record: RunRecord
    fit: FitRecord
    sweep: SweepRecord

    @classmethod
    def open(cls, path: Path) -> _Source:
        layout = RunLayout(path)
        record = require_run(layout, "merge")
        fit, sweep = record.stages.fit, record.stages.sweep
        if fit is None or fit.state != "done":
            raise UnfinishedRunError(
                f"{path}: its fit is not done; fit once, copy the run directory to each machine, then sweep"
            )
        if sweep is None or sweep.rows is None or sweep.scale is None:
            raise UnfinishedRunError(f"{path}: its sweep has not begun; run gdig sweep there first")
        return cls(layout, record, fit, sweep)

    def groups(self, stage: str) -> Iterator[FileGroup]:
        return (group for group in self.layout.files_of(self.record) if group.stage == stage)


def merge(runs: Sequence[str | Path], run_path: str | Path, *, progress: Progress | None = None) -> list[str]:
    """Join in the directory `run_path` the shards that copies of one fitted run have swept (see `sweep_part`).

    Each file is complete or absent. Where several runs have a shard, the first one's is taken. What `run_path` has is
    kept.

    Args:
        runs: the run directories, whose fit is done and whose sweep has begun.
        run_path: the directory of the result: one of `runs`, or a new one.
        progress: where to show progress.

    Returns:
        Lines that say what is there now. A sweep or select in `run_path` goes on from it.

    Raises:
        ConfigError: when there is nothing to merge, or a path is no run directory.
        RunError: naming what differs between two runs: options, inputs or a file of the fit; when `run_path` is in use.
        StoreError: naming a file that is damaged.

    Example:
        >>> gdig.merge(["runs/a"], "runs/whole")
        ['runs/whole: 4 shards copied, 4 of 4 are there']
    """
    paths, out = [Path(path) for path in runs], Path(run_path)
    if not paths:
        raise ConfigError("merge: expected the run directories to put together, got none")
    target = RunLayout(out)
    refuse_foreign(target)
    # A merge that was stopped while it copied the fit has left a record without a stage.
    fresh = not target.record.exists() or read_record(target.record).stages == Stages()
    # What is in `out` comes first: it is kept.
    others = [path for path in paths if fresh or path.resolve() != out.resolve()]
    sources = [_Source.open(path) for path in ([] if fresh else [out]) + others]
    first = sources[0]
    for source in sources[1:]:
        _compare(first, source)
    for source in sources:
        _compare_fits(first, source)
    out.mkdir(parents=True, exist_ok=True)
    handle = lock(target.lock)
    try:
        refuse_linked_folders(out)
        if fresh:
            _begin(first, target)
        return _copy_sweeps(sources, target, progress or Progress())
    finally:
        unlock(handle)


def _begin(first: _Source, target: RunLayout) -> None:
    """Copy the fit into a new directory, and write its record: first without a stage, so that the directory is known
    as a run when the copying is stopped; at the end with the fit, whose files are then there."""
    config = {**first.record.config, "run_path": str(target.path), "sweep_part": None}
    record = replace(first.record, config=config)
    write_record(target.record, replace(record, stages=Stages()))
    for folder in (folder for stage in STAGES for folder in target.folders_of(stage)):
        remove_folder(folder)  # of a stopped merge
    for group in first.groups("fit"):
        _copy_missing(first.layout, group, target)
    sweep = replace(first.sweep, state="running", checkpoints={}, checkpoint_order=())
    write_record(
        target.record, record.with_stage("sweep", sweep).with_stage("cluster", None).with_stage("select", None)
    )


def _copy_sweeps(sources: Sequence[_Source], target: RunLayout, progress: Progress) -> list[str]:
    """Copy what the sweeps of the sources have left and `target` lacks; record the checkpoints that it has then."""
    record = read_record(target.record)
    assert record.stages.sweep is not None
    checkpoints, order = dict(record.stages.sweep.checkpoints), record.stages.sweep.checkpoint_order
    for source in sources:
        checkpoints = {**source.sweep.checkpoints, **checkpoints}
        order = order or source.sweep.checkpoint_order
    # Until all its shards are counted, a checkpoint is not done.
    running = {key: replace(checkpoint, state="running") for key, checkpoint in checkpoints.items()}
    sweep = replace(record.stages.sweep, checkpoints=running, checkpoint_order=order)
    record = record.with_stage("sweep", sweep)
    lines = []
    for group in target.files_of(record):
        if group.stage != "sweep":
            continue
        holders = [replace(group, folder=source.layout.path / group.name) for source in sources]
        if group.kind != "store":
            for source, holder in zip(sources, holders, strict=True):
                files = tuple(holder.folder / file.name for file in group.files)
                _copy_missing(source.layout, replace(holder, files=tuple(f for f in files if f.is_file())), target)
            continue
        checkpoint = next((c for key, c in checkpoints.items() if target.checkpoint(key).shards == group.folder), None)
        what = f"checkpoint {checkpoint.path}: " if checkpoint else ""
        folders = [holder.folder for holder in holders]
        lines += _copy_shards(folders, group, sweep, target, progress, what)
    done = {
        key: replace(checkpoint, state="running" if _lacks(target.checkpoint(key).shards, sweep) else "done")
        for key, checkpoint in checkpoints.items()
    }
    write_record(target.record, record.with_stage("sweep", replace(sweep, checkpoints=done)))
    return lines


def _copy_shards(
    folders: Sequence[Path], group: FileGroup, sweep: SweepRecord, target: RunLayout, progress: Progress, what: str
) -> list[str]:
    """Copy into a store of `target` the shards that it lacks, from whoever has them.

    Args:
        folders: the same store of each source; it may be absent.
        group: the store; it is made if it is absent.
        sweep: says how many rows the whole store holds.
        target: the run directory that the store belongs to.
        progress: where to show it.
        what: begins the lines returned.
    """
    folder, origin = group.folder, group.origin
    assert origin is not None
    stores = [SketchStore.open(path, origin) for path in folders if SketchStore.exists(path)]
    if not SketchStore.exists(folder):
        if not stores:
            return []
        like = stores[0]
        SketchStore.describe(folder, like.dim, dtype=like.dtype, rows_per_shard=like.rows_per_shard, made_from=origin)
    store, n_rows = SketchStore.open(folder, origin), sweep.rows or 0
    wanted, copied = store.missing(n_rows), 0
    title = f"merge, {what.removesuffix(': ')}" if what else "merge"
    with progress.stage(title, len(wanted), "shards") as bar:
        for source in stores:
            sound = set(source.shards) - set(source.missing(n_rows))
            for shard in [shard for shard in wanted if shard in sound]:
                verify_file(source.shard_path(shard))
                _copy_file(source.shard_path(shard), store.shard_path(shard))
                wanted.remove(shard)
                copied += 1
                bar.advance(1)
    remove_finished(store)
    whole = sweep.shards
    lines = [f"{target.path}: {what}{counted(copied, 'shard')} copied, {whole - len(wanted)} of {whole} are there"]
    if wanted:
        shown = ", ".join(map(str, wanted[:10])) + (", ..." if len(wanted) > 10 else "")
        lines.append(f"missing: {shown}; gdig sweep --run-path {target.path} makes them")
    return lines


def _lacks(path: Path, sweep: SweepRecord) -> bool:
    """Whether a store lacks a shard of the whole sweep."""
    return not SketchStore.exists(path) or bool(SketchStore.open(path).missing(sweep.rows or 0))


def _compare(first: _Source, other: _Source) -> None:
    """Raise RunError that names whatever a shard depends on and that differs between two runs."""
    lines = []
    inputs_a, inputs_b = first.record.inputs, other.record.inputs
    for kind in {**inputs_a, **inputs_b}:
        before, files = inputs_a.get(kind, {}), inputs_b.get(kind, {})
        differing = [name for name in {**before, **files} if before.get(name) != files.get(name)]
        lines += [f"{kind}: {name} is not the same in both" for name in differing]
        if not differing and list(before) != list(files):
            lines.append(f"{kind}: the files come in another order")
    a, b = _options(first), _options(other)
    lines += [f"{k}: {a.get(k)!r} and {b.get(k)!r}" for k in {**a, **b} if a.get(k) != b.get(k)]
    if lines:
        raise OtherRunError(
            f"{first.layout.path} and {other.layout.path} are not parts of one sweep:\n"
            + "\n".join(f"  {line}" for line in lines)
        )


def _options(source: _Source) -> dict[str, object]:
    """What a shard depends on besides the inputs and the files of the fit."""
    growth = [(growth.files, growth.first_row) for growth in source.sweep.growth]
    facts = {"dtype": source.fit.dtype, "scale": source.sweep.scale, "rows": source.sweep.rows, "growth": growth}
    return {**source.fit.config, **source.sweep.config, **facts}


def _compare_fits(first: _Source, other: _Source) -> None:
    """Raise RunError that names a file of the fit that differs between two runs."""
    for group, expected in zip(other.groups("fit"), first.groups("fit"), strict=True):
        if group.origin is None:
            continue
        for file, expected_file in zip(group.files, expected.files, strict=True):
            other.layout.checked(file, group.origin_of(file)).read()
            first.layout.checked(expected_file, expected.origin_of(expected_file)).read()
            if not filecmp.cmp(file, expected_file, shallow=False):
                raise OtherRunError(f"{file}: another fit than {expected_file}: fit once, then copy the run directory")


def _copy_missing(source: RunLayout, group: FileGroup, target: RunLayout) -> None:
    """Copy the files of a source's group that `target` lacks."""
    for file in group.files:
        copy = target.path / group.name / file.name
        if not copy.exists():
            if group.origin is not None:
                source.checked(file, group.origin_of(file)).read()
            _copy_file(file, copy)


def _copy_file(source: Path, target: Path) -> None:
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)
