"""The life of a run directory: opened and locked, compared with what is asked, and written stage by stage."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from gdig.config.config import Config
from gdig.config.options import STAGES
from gdig.errors import DiskError, NoRunError, RunError
from gdig.nouns import counted
from gdig.progress import Progress
from gdig.run.differences import compare_run, stage_config
from gdig.run.layout import RunLayout
from gdig.run.links import leftovers, refuse_linked_folders, remove_folder, remove_link
from gdig.run.lock import ReadOnlyError, lock, lock_to_read, unlock
from gdig.run.pool_files import (
    CANDIDATES,
    are_appended,
    are_earlier,
    grown,
    is_growing,
    shrunk,
    with_recorded_names,
)
from gdig.run.record import (
    STAGE_TYPES,
    ClusterRecord,
    FitRecord,
    RunRecord,
    SelectRecord,
    StageRecord,
    State,
    SweepRecord,
)
from gdig.run.record_file import read_record, write_record

_LAST_RANKS_S = 60
"""How long the ranks of an earlier start may take to end, in seconds."""

Record = TypeVar("Record", bound=StageRecord)


@dataclass
class StageEnd:
    """The state that a stage gets when its block ends well; a block that leaves work for another start changes it."""

    state: State = "done"


class Run:
    """A run directory, locked for this process.

    A directory on a read-only disk can be read: what a start would only note of itself is then not recorded, and a
    stage that has work to do is refused.

    Args:
        config: the options; `run_path` is required.
        inputs: fingerprint of each input, {"model": {...}, "candidates": {...}, ...}.
        progress: where to say what starts over.

    Raises:
        RunError: when the directory belongs to something else, is in use, is of another format, or (with `overwrite`
            off) of another configuration or other inputs. The message names the fields that differ.

    Attributes:
        has_more_files: whether the pool of the run has grown by files that this start does not give.
    """

    def __init__(self, config: Config, inputs: dict[str, dict[str, Any]], progress: Progress) -> None:
        config.require("run_path")
        self.path = Path(str(config.run_path))
        self.layout = RunLayout(self.path)
        self.config = config
        self.has_more_files = False
        layout = self.layout
        refuse_foreign(layout)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _cannot_be_made(self.path, error) from None
        if config.overwrite:  # gdig locks through no link, so no other process holds one of these
            remove_link(layout.lock)
            remove_link(layout.ranks_lock)
        self._read_only: ReadOnlyError | None = None
        self._lock: int | None
        try:
            self._lock = lock(layout.lock)
        except ReadOnlyError as error:
            if not layout.record.exists():
                raise
            self._read_only, self._lock = error, lock_to_read(layout.lock)
            progress.say(f"{self.path} cannot be written; the selection is not recorded there")
        try:
            if self._read_only is None:
                _wait_for_ranks(layout)
                for leftover in leftovers(self.path):  # of a process that was killed: the lock says there is no other
                    leftover.unlink(missing_ok=True)
            self.record = read_record(layout.record) if layout.record.exists() else RunRecord()
            self._settle(with_recorded_names(self.record, inputs), progress)
            if self._read_only is None:
                refuse_linked_folders(self.path)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let another process use the directory."""
        if self._lock is not None:
            unlock(self._lock)

    @property
    def fit(self) -> FitRecord:
        """What is recorded of the fit; blank when it has not begun."""
        return self.record.stages.fit or FitRecord({})

    @property
    def sweep(self) -> SweepRecord:
        """What is recorded of the sweep; blank when it has not begun."""
        return self.record.stages.sweep or SweepRecord({})

    @property
    def cluster(self) -> ClusterRecord:
        """What is recorded of the clusters; blank when there are none."""
        return self.record.stages.cluster or ClusterRecord({})

    def done(self, name: str) -> bool:
        """Whether a stage is finished."""
        stage = self._stage(name)
        return stage is not None and stage.state == "done"

    def update(self, name: str, **facts: Any) -> None:
        """Record facts about a stage, at once; they are fields of the stage's record."""
        stage = self._stage(name) or STAGE_TYPES[name](self._stage_config(name))
        record = self.record.with_stage(name, replace(stage, **facts))
        if record != self.record:
            self.require_writable(name)
            self._write(record)

    def require_writable(self, name: str) -> None:
        """Raise RunError if the directory cannot be written, before a stage begins its work."""
        if self._read_only is not None:
            raise DiskError(f"{self._read_only}, and the {name} stage has work to do; copy the run to another disk")

    def record_selection(self, **facts: Any) -> None:
        """Record what was chosen, with the options of this choice."""
        self._write(self.record.with_stage("select", SelectRecord(self._stage_config("select"), state="done", **facts)))

    def write_beside(self, file: Path, write: Callable[[Path], None]) -> None:
        """Write a file of the run for people, where the directory can be written."""
        if self._read_only is None:
            write(file)

    def remember(self, **options: Any) -> None:
        """Record other values of options, for starts that do not give them."""
        self._write(replace(self.record, config={**self.record.config, **options}))

    @contextmanager
    def running(self, name: str) -> Iterator[StageEnd]:
        """Mark a stage as running, and as done when the block ends well; its seconds add up over starts."""
        start = time.monotonic()
        stage = self._stage(name)
        if stage is None:
            self._remove_files(name)  # left by a start_over that was killed: of another configuration, perhaps
        before = stage.seconds if stage else 0.0
        self.update(name, state="running")
        end = StageEnd()
        try:
            yield end
        except BaseException:
            self.update(name, seconds=before + time.monotonic() - start)
            raise
        self.update(name, state=end.state, seconds=before + time.monotonic() - start)

    def start_over(self, name: str) -> None:
        """Forget a stage and the ones after it, with their files."""
        record = self.record
        for later in STAGES[STAGES.index(name) :]:
            record = record.with_stage(later, None)
        self._write(record)  # first: files without a record are unfinished work, a record without files would be a lie
        for later in STAGES[STAGES.index(name) :]:
            self._remove_files(later)

    def _stage(self, name: str) -> StageRecord | None:
        return getattr(self.record.stages, name)

    def _remove_files(self, name: str) -> None:
        for folder in self.layout.folders_of(name):
            remove_folder(folder)

    def _settle(self, inputs: dict[str, dict[str, Any]], progress: Progress) -> None:
        """Compare what the directory holds with what is asked now."""
        inputs = self._settle_pool(inputs, progress)
        self.record, first = compare_run(self.layout, self.record, self.config, inputs)
        if self.config.overwrite and any(self._stage(name) is not None for name in STAGES):
            self.require_writable(first or STAGES[0])
            first = first or STAGES[0]
            progress.say(f"starting over from the {first} stage")
            self.start_over(first)
        versions = _versions()
        began = self.record.versions or versions
        for package, version_now in versions.items():
            if began.get(package, version_now) != version_now:
                progress.warn(f"{package} {began[package]} began this run, {version_now} goes on: rounding may differ")
        day = self.record.date if self.record.stages.fit is not None else date.today().isoformat()
        config = self.config.to_dict()
        if self.has_more_files:  # a later start without the option has all files
            config[CANDIDATES] = self.record.config.get(CANDIDATES, config[CANDIDATES])
        self._write(replace(self.record, config=config, inputs=inputs, versions=began, date=day))

    def _settle_pool(self, inputs: dict[str, dict[str, Any]], progress: Progress) -> dict[str, dict[str, Any]]:
        """Take appended files in, and return the inputs that the run has: with fewer files given, all its own."""
        before, now = self.record.inputs.get(CANDIDATES, {}), inputs.get(CANDIDATES, {})
        if self.config.overwrite:  # starts over with the files that are given
            return inputs
        if are_appended(before, now) and self.done("sweep"):
            self.require_writable("sweep")
            appended = counted(len(now) - len(before), "file was appended", "files were appended")
            progress.say(f"candidates: {appended}; their rows alone are swept")
            self.record = grown(self.record, inputs)
        elif are_earlier(self.record, now):
            if is_growing(self.record) and len(now) == self.sweep.growth[-1].files:
                progress.say("candidates: the files that were appended last are not swept and not given any more")
                self.record = shrunk(self.record, now)
                return inputs
            self.has_more_files = True
            return {**inputs, CANDIDATES: dict(before)}
        return inputs

    def _stage_config(self, name: str) -> dict[str, Any]:
        return stage_config(self.config, name)

    def _write(self, record: RunRecord) -> None:
        if self._read_only is None:
            write_record(self.layout.record, record)
        self.record = record


def refuse_foreign(layout: RunLayout) -> None:
    """Raise RunError if the directory holds files but no run, so that nothing of somebody else's is changed."""
    if layout.path.exists() and not layout.path.is_dir():
        raise RunError(f"run_path: {layout.path} is a file, expected a directory")
    if layout.path.is_dir() and not layout.record.exists():
        if all(layout.is_leftover(path) for path in layout.path.iterdir()):
            return
        raise RunError(f"run_path: {layout.path} is not empty and holds no {layout.record.name}; use another directory")


def _require_place(path: Path) -> None:
    """Raise RunError if a directory is not there and cannot be made."""
    if path.exists():
        return
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    number = errno.ENOTDIR if not folder.is_dir() else 0 if os.access(folder, os.W_OK | os.X_OK) else errno.EACCES
    if number:
        raise _cannot_be_made(path, OSError(number, os.strerror(number)))


def _cannot_be_made(path: Path, error: OSError) -> DiskError:
    return DiskError(f"run_path: {path} cannot be made: {error.strerror or error}")


def require_run(layout: RunLayout, name: str) -> RunRecord:
    """Read the record of a run that must be there. `name`: of the option or command, for the message.

    Raises:
        ConfigError: when the directory holds no run.
        RunError: when the record is damaged or of another format.
    """
    if not layout.record.exists():
        raise NoRunError(
            f"{name}: {layout.path} is no run directory (it holds no {layout.record.name}); give the run_path of a "
            "run, or begin one by gdig select with model, candidates and seeds"
        )
    return read_record(layout.record)


def require_options(config: Config, *names: str) -> None:
    """Raise for the first of the named options that is missing, in a start that may go on from the run in `run_path`.

    Raises:
        ConfigError: when an option is missing. It names the directory where the run that would give a model is missing.
        RunError: when the record of that run is damaged or of another format.
    """
    if config.run_path and not config.model:
        require_run(RunLayout(Path(config.run_path)), "run_path")
    config.require(*names)


def settled_record(layout: RunLayout, config: Config) -> RunRecord | None:
    """Return what a start with these options would go on from, without writing; None where nothing is begun.

    The inputs are taken to be those of the run: their content is not read.

    Raises:
        RunError: when the directory belongs to something else, is of another format, or (with `overwrite` off) of
            another configuration.
    """
    refuse_foreign(layout)
    _require_place(layout.path)
    if not layout.record.exists():
        return None
    before = read_record(layout.record)
    record, first = compare_run(layout, before, config, before.inputs)
    if config.overwrite:
        for name in STAGES[STAGES.index(first or STAGES[0]) :]:
            record = record.with_stage(name, None)
    return record


def _wait_for_ranks(layout: RunLayout) -> None:
    """Wait until no rank of an earlier start is at work in the directory: it might yet write a file of a stage that is
    about to start over. Ranks end within seconds of the one that has the lock."""
    if not layout.ranks_lock.exists():
        return
    for _ in range(_LAST_RANKS_S):
        with contextlib.suppress(RunError):
            unlock(lock(layout.ranks_lock))
            return
        time.sleep(1)
    unlock(lock(layout.ranks_lock))


def _versions() -> dict[str, str]:
    packages = {name: version(name) for name in ("gdig", "torch", "transformers", "numpy")}
    return {**packages, "python": platform.python_version()}
