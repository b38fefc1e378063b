"""Every file of a run: whether it is sound, damaged, missing, or of something else. Nothing is written."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gdig.config.options import STAGES
from gdig.control_characters import visible
from gdig.data.fingerprint import hash_content
from gdig.errors import GdigError, RunError, StoreError
from gdig.kmeans import KMeans
from gdig.kmeans.labels import label_damage
from gdig.run.directory import require_run
from gdig.run.file_groups import FileGroup
from gdig.run.layout import RunLayout
from gdig.run.origin import cluster_origin, rows_origin
from gdig.run.record import RunRecord
from gdig.store.numbered import numbered_file
from gdig.store.sketches import STORE_JSON, SketchStore
from gdig.store.tensor_file import CheckedFile, Damage, damage_of, read_tensors

_MOST_MISSING = 20
"""Missing files of a group that are named one by one; those after them are named as a range."""


@dataclass(frozen=True)
class FileReport:
    """A file of a run.

    file: relative to the run directory; of several missing files, the first and the last. state: what it is. what: the
    reason for another state than sound. bytes: its length.
    """

    file: str
    state: Literal["sound", "damaged", "missing", "foreign"]
    what: str = ""
    bytes: int = 0


@dataclass(frozen=True)
class Verification:
    """What `gdig.verify` has read: one report a file, in the order of the stages."""

    run_path: Path
    files: tuple[FileReport, ...]

    @property
    def sound(self) -> bool:
        """Whether every file that should be there is sound, and no other is."""
        return all(report.state == "sound" for report in self.files)

    def lines(self) -> list[str]:
        """Return what to print: each file that is not sound, then one line for each folder, then a sum."""
        lines = [f"{report.state}: {visible(report.what)}" for report in self.files if report.state != "sound"]
        by_folder: dict[str, list[FileReport]] = {}
        for report in self.files:
            by_folder.setdefault(str(Path(report.file).parent), []).append(report)
        for folder, reports in by_folder.items():
            size = sum(report.bytes for report in reports)
            lines.append(f"{'run' if folder == '.' else visible(folder)}: {_counts(reports)}, {size:,} bytes")
        return [*lines, f"{self.run_path}: {_counts(self.files)}" + ("" if self.sound else "; not sound")]

    def as_json(self) -> dict[str, Any]:
        """Return what JSON holds: `run_path`, `sound`, and for each file `file`, `state`, `what` and `bytes`."""
        return {
            "run_path": str(self.run_path),
            "sound": self.sound,
            "files": [vars(report) for report in self.files],
        }


def verify(run_path: str | Path) -> Verification:
    """Read every file of a run, and say of each whether it is sound, damaged, missing, or of something else.

    Several threads read. Nothing is written, so the run may lie on a read-only disk. Where run.json is missing or
    damaged, nothing says which files should be there and what they are made from: of the files that are there, the
    checksums are compared.

    Raises:
        ConfigError: when the directory holds no run.

    Example:
        >>> report = gdig.verify("runs/a")
        >>> report.sound, report.files[0]
        (True, FileReport(file='run.json', state='sound', what='', bytes=...))
    """
    layout = RunLayout(Path(run_path))
    reporter = _Reporter(layout)
    if not layout.record.exists() and any(f.is_dir() for stage in STAGES for f in layout.folders_of(stage)):
        return reporter.without_record(Damage("missing", f"{layout.record}: is missing"))
    try:
        record = require_run(layout, "run_path")
    except RunError as error:
        return reporter.without_record(Damage("damaged", str(error)))
    return Verification(layout.path, (reporter.report(layout.record, None), *reporter.of_stages(record)))


class _Reporter:
    def __init__(self, layout: RunLayout) -> None:
        self._layout = layout

    def of_stages(self, record: RunRecord) -> Iterator[FileReport]:
        """Report the files of all stages, in their order, and the selection."""
        of_kind = {"files": self._of_files, "store": self._of_store, "labels": self._of_labels}
        for group in self._layout.files_of(record):
            yield from of_kind[group.kind](group, record)
        yield from self._of_difficulties(record)
        yield from self._of_selection(record)

    def without_record(self, damage: Damage) -> Verification:
        """Report the record, and the files that are there by their checksums alone."""
        layout = self._layout
        what = (
            f"{damage.what}. Of the other files the checksums alone are compared: nothing says which should be there, "
            "and what they are made from"
        )
        reports = [self.report(layout.record, damage._replace(what=what))]
        folders = [folder for stage in STAGES for folder in layout.folders_of(stage)]
        folders.remove(layout.score_net_training)  # Trainer's files have no checksums
        for folder in (Path(path) for top in folders for path, _, _ in sorted(os.walk(top))):
            if (folder / STORE_JSON).exists():
                reports.append(self.report(folder / STORE_JSON, _unreadable(folder)))
            files = sorted(_tensor_files(folder))
            reports += map(self.report, files, damage_of(files))
        return Verification(layout.path, tuple(reports))

    def report(self, file: Path, damage: Damage | None) -> FileReport:
        name = file.relative_to(self._layout.path).as_posix()
        if damage is not None:
            return FileReport(name, damage.state, damage.what, _size(file))
        return FileReport(name, "sound", "", _size(file))

    def _of_files(self, group: FileGroup, record: RunRecord) -> Iterator[FileReport]:
        """Report the files that a stage has left, and those of an unfinished stage that are there. Also report files
        that may be there, and files that no stage has left."""
        present = _tensor_files(group.folder)
        # Looked for without a comparison with each: a model has tens of thousands of experts.
        own = set(group.files) if isinstance(group.files, tuple) else group.files
        expected = list(group.files) if group.done else sorted(file for file in present if file in own)
        checked: list[CheckedFile | Path] = [
            self._layout.checked(file, group.origin_of(file)) if group.origin is not None else file for file in expected
        ]
        yield from map(self.report, expected, damage_of(checked))
        optional = [(file, origin) for file, origin in group.optional.items() if file in present]
        checked = [file if origin is None else self._layout.checked(file, origin) for file, origin in optional]
        yield from map(self.report, (file for file, _ in optional), damage_of(checked))
        others = sorted(file for file in present if file not in own and file not in group.optional)
        if group.origin is None:  # resume files: what they were made from is compared when work goes on from them
            yield from map(self.report, others, damage_of(others))
        else:
            yield from self._unexpected(others)

    def _unexpected(self, files: Iterable[Path]) -> Iterator[FileReport]:
        for file in files:
            yield self.report(file, Damage("foreign", f"{file}: no stage of this run has left such a file"))

    def _of_store(self, group: FileGroup, record: RunRecord) -> Iterator[FileReport]:
        sweep, store = record.stages.sweep, _store(group.folder, record, group.origin or "")
        assert sweep is not None
        description, shards = store.path / STORE_JSON, store.shards
        if not description.exists() and not group.done and not shards:
            return
        yield self.report(description, _description_damage(store))
        damage = store.damage(sweep.rows or 0)
        for shard, fault in list(damage.items()):
            if fault.state == "short":  # of a pool that has grown, until its new rows are swept
                damage[shard] = fault._replace(state="damaged")
                if not group.done:
                    del damage[shard]
        if group.done:
            yield from self._missing(group.folder, store.absent(sweep.rows or 0))
        for shard in sorted({*shards, *damage}):
            yield self.report(store.shard_path(shard), damage.get(shard))
        numbered = {store.shard_path(shard) for shard in shards}
        yield from self._unexpected(sorted(_tensor_files(group.folder) - numbered))

    def _missing(self, folder: Path, shards: Sequence[int]) -> Iterator[FileReport]:
        files = [numbered_file(folder, shard) for shard in (*shards[: _MOST_MISSING + 1], *shards[-1:])]
        for file in files[: min(len(shards), _MOST_MISSING)]:
            yield self.report(file, Damage("missing", f"{file}: is missing"))
        if more := shards[_MOST_MISSING:]:
            first, last = files[-2], files[-1]
            what = f"{len(more):,} files from {first} to {last} are missing"
            yield FileReport(f"{first.relative_to(self._layout.path)} to {last.name}", "missing", what)

    def _of_labels(self, group: FileGroup, record: RunRecord) -> Iterator[FileReport]:
        """Report label files, which are compared with what is there of the shards and the centroids."""
        layout, sweep = self._layout, record.stages.sweep
        centroids = layout.checked(layout.centroids, cluster_origin(record))
        kmeans: KMeans | None = None
        with contextlib.suppress(GdigError):
            kmeans = KMeans.load(centroids.path, centroids.made_from)
        store = _store(layout.sweep, record, rows_origin(record))
        damage, absent = label_damage(store, (sweep and sweep.rows) or 0, group.folder, kmeans)
        if group.done:
            yield from self._missing(group.folder, absent)
        faults = {numbered_file(group.folder, shard): fault for shard, fault in damage.items()}
        present = _tensor_files(group.folder)
        for file in sorted({*faults, *(file for file in present if file in group.files)}):
            yield self.report(file, faults.get(file))
        yield from self._unexpected(sorted(file for file in present - faults.keys() if file not in group.files))

    def _of_difficulties(self, record: RunRecord) -> Iterator[FileReport]:
        """Report the difficulties of a score net. The net's file, which is written last, says which they are."""
        layout = self._layout
        if record.stages.sweep is None:
            return
        net, difficulties = layout.checked(layout.score_net, rows_origin(record)), layout.difficulty
        if not net.path.exists():
            if difficulties.exists() and not layout.score_net_training.exists():
                yield self.report(difficulties, Damage("foreign", f"{difficulties}: {net.path} is missing"))
            return
        if net.damage() is None:
            yield self.report(difficulties, difficulty_damage(net, difficulties))

    def _of_selection(self, record: RunRecord) -> Iterator[FileReport]:
        """Report the selection, if it lies in the run directory."""
        select, file = record.stages.select, self._layout.selection
        if select is None or select.state != "done":
            return
        if select.config.get("output") is not None:
            output, run = (Path(os.path.abspath(path)) for path in (select.output or "", self._layout.path))  # noqa: PTH100
            if run not in output.parents:  # by name, because a record can hold a text that no system resolves
                return
            file = self._layout.path / output.relative_to(run)
        yield self.report(file, content_damage(file, select.output_hash or ""))


def _store(folder: Path, record: RunRecord, origin: str) -> SketchStore:
    """The store of a pass as its record describes it, whatever its store.json says."""
    assert record.stages.sweep is not None
    options = record.stages.sweep.config
    return SketchStore.expected(
        folder,
        options["projection_dim"],
        dtype=options["sketch_dtype"],
        rows_per_shard=options["rows_per_shard"],
        made_from=origin,
    )


def _description_damage(store: SketchStore) -> Damage | None:
    file = store.path / STORE_JSON
    if not file.exists():
        return Damage("missing", f"{file}: is missing")
    if (damage := _unreadable(store.path)) is not None:
        return damage
    stored = SketchStore.open(store.path)
    facts, expected = (
        f"{s.dim} columns of {s.dtype}, {s.rows_per_shard:,} rows per shard, made from {s.made_from!r}"
        for s in (stored, store)
    )
    return None if facts == expected else Damage("foreign", f"{file}: {facts}: expected {expected}")


def _unreadable(store: Path) -> Damage | None:
    """What is wrong with a description, whatever it describes."""
    try:
        SketchStore.open(store)
    except StoreError as error:
        return Damage("damaged", str(error))
    return None


def difficulty_damage(net: CheckedFile, difficulties: Path) -> Damage | None:
    """Return what is wrong with the difficulties of a score net, whose file holds their hash."""
    return content_damage(difficulties, read_tensors(net.path)[1].get("difficulty", ""))


def content_damage(file: Path, expected: str) -> Damage | None:
    """Compare the content of a file of another kind with the hash that was recorded when it was written."""
    if not file.exists():
        return Damage("missing", f"{file}: is missing")
    if not file.is_file():  # opening a pipe would wait for its writer
        return Damage("damaged", f"{file}: expected a file, got something else, such as a folder or a pipe")
    try:
        content = hash_content(file)
    except OSError as error:
        return Damage("damaged", f"{file}: cannot be read: {error.strerror or error}")
    if content == expected:
        return None
    return Damage("damaged", f"{file}: expected a content with the hash {expected}, got {content}")


def _tensor_files(folder: Path) -> set[Path]:
    """The tensor files in a folder, whether complete or not."""
    try:
        return {folder / entry.name for entry in os.scandir(folder) if entry.name.endswith(".safetensors")}
    except OSError:
        return set()


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _counts(reports: Iterable[FileReport]) -> str:
    counts = Counter(report.state for report in reports)
    return ", ".join(f"{count:,} {state}" for state, count in sorted(counts.items(), key=lambda c: c[0] != "sound"))
