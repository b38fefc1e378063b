"""The run directory: what a run was asked, what it read, and how far it is (run.json)."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gdig.config.config import Config
from gdig.config.options import STAGE_GROUPS, STAGES
from gdig.errors import RunError
from gdig.progress import Progress
from gdig.run.lock import lock
from gdig.store.atomic import replacing

FORMAT = 1
"""Version of the run directory's layout."""

_LAST_RANKS_S = 60
"""So long the ranks of an earlier start may take to end, in seconds."""

_DIRECTORIES = {
    "fit": ("curvature", "seeds"),
    "sweep": ("sweep", "features", "checkpoints", "score_net"),
    "cluster": ("clusters",),
    "select": (),
}
# What is recorded of a stage before it has kept any result.
_NOTHING_KEPT = {"config", "seconds", "state"}
# Compared by content, not by name: moving a pool does not change it.
_BY_CONTENT = ("model", "candidates", "seeds", "tokenizer")
# What names a checkpoint's folder (gdig.passes.training_checkpoints): another one stands beside it.
_BY_FOLDER = ("checkpoints", "feature_side")


class Run:
    """A run directory, locked for this process.

    Args:
        config: the options; `run_path` is required.
        inputs: fingerprint of each input, {"model": {...}, "candidates": {...}, ...}.
        progress: where to say what is started over.

    Raises:
        RunError: when the directory is somebody else's, in use, of another format, or (with `overwrite` off) of
            another configuration or other inputs. The message names the fields that differ.
    """

    def __init__(self, config: Config, inputs: dict[str, dict], progress: Progress) -> None:
        config.require("run_path")
        self.path = Path(str(config.run_path))
        self.config = config
        self._file = self.path / "run.json"
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"run_path: {self.path} is a file, expected a directory")
        if self.path.is_dir() and not self._file.exists() and any(not _is_ours(p) for p in self.path.iterdir()):
            raise RunError(f"run_path: {self.path} is not empty and holds no run.json; choose another directory")
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = lock(self.path / ".lock")
        try:
            _wait_for_ranks(self.path)
            for leftover in self.path.rglob(".*.tmp"):  # of a process that was killed: the lock says there is no other
                leftover.unlink(missing_ok=True)
            fresh: dict[str, Any] = {"format": FORMAT, "stages": {}}
            self.state = read_state(self._file) if self._file.exists() else fresh
            self._settle(inputs, progress)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let another process use the directory."""
        os.close(self._lock)

    def stage(self, name: str) -> dict[str, Any]:
        """What is recorded of a stage; {} when it has not begun."""
        return self.state["stages"].get(name, {})

    def done(self, name: str) -> bool:
        """Whether a stage is finished."""
        return self.stage(name).get("state") == "done"

    def record(self, name: str, **facts: Any) -> None:
        """Keep facts about a stage, at once."""
        stage = self.state["stages"].setdefault(name, {"config": self._stage_config(name), "seconds": 0.0})
        stage.update(facts)
        self._write()

    def remember(self, **options: Any) -> None:
        """Keep other values of options, for starts that do not give them."""
        self.state["config"].update(options)
        self._write()

    @contextmanager
    def running(self, name: str) -> Iterator[dict[str, str]]:
        """Mark a stage as running, and as done when the block ends well; its seconds add up over starts.

        Gives what will be recorded then, {"state": "done"}; a block that leaves work for another start changes it.
        """
        start = time.monotonic()
        if not self.stage(name):
            self._remove_files(name)  # left by a start_over that was killed: of another configuration, perhaps
        before = self.stage(name).get("seconds", 0.0)
        self.record(name, state="running")
        ended = {"state": "done"}
        try:
            yield ended
        except BaseException:
            self.record(name, seconds=before + time.monotonic() - start)
            raise
        self.record(name, **ended, seconds=before + time.monotonic() - start)

    def start_over(self, name: str) -> None:
        """Forget a stage and the ones after it, with their files."""
        for later in STAGES[STAGES.index(name) :]:
            self.state["stages"].pop(later, None)
        self._write()  # first: files without a record are unfinished work, a record without files would be a lie
        for later in STAGES[STAGES.index(name) :]:
            self._remove_files(later)

    def _remove_files(self, name: str) -> None:
        for directory in _DIRECTORIES[name]:
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(self.path / directory)

    def _settle(self, inputs: dict[str, dict], progress: Progress) -> None:
        """Compare what the directory holds with what is asked now."""
        stages = self.state["stages"]
        bare = [name for name in stages if set(stages[name]) <= _NOTHING_KEPT and not self.done(name)]
        known = self.state.get("inputs", {}) if len(stages) > len(bare) else {}
        for name in bare:  # it began and left nothing, an error in the options perhaps: no reason to refuse others
            if stages[name].get("config") != self._stage_config(name):
                del stages[name]
        differences = {"fit": _input_differences(known, inputs)} if known else {}
        for name in STAGES[:-1]:
            then, now = self.stage(name).get("config", {}), self._stage_config(name)
            found = [f"{k}: {then[k]!r} in the run, {now.get(k)!r} now" for k in then if then[k] != now.get(k)]
            if found:
                differences[name] = differences.get(name, []) + found
        first = next((name for name in STAGES if differences.get(name)), None)
        if first is not None and not self.config.overwrite:
            lines = "\n".join(f"  {line}" for name in STAGES for line in differences.get(name, []))
            raise RunError(
                f"{self.path} holds a run with another configuration or other inputs:\n{lines}\n"
                f"Use another --run-path, or --overwrite to start over from the {first} stage."
            )
        if self.config.overwrite and self.state["stages"]:
            first = first or STAGES[0]
            progress.say(f"starting over from the {first} stage")
            self.start_over(first)
        versions = _versions()
        began = self.state.get("versions", versions)
        for package, version_now in versions.items():
            if began.get(package, version_now) != version_now:
                progress.warn(f"{package} {began[package]} began this run, {version_now} goes on: rounding may differ")
        self.state.update(config=self.config.to_dict(), inputs=inputs, versions=began)
        self._write()

    def _stage_config(self, name: str) -> dict[str, Any]:
        values = {k: v for group in STAGE_GROUPS[name] for k, v in self.config.group(group).items()}
        return {k: v for k, v in values.items() if k not in _BY_CONTENT + _BY_FOLDER}

    def _write(self) -> None:
        write_state(self._file, self.state)


def write_state(file: Path, state: dict[str, Any]) -> None:
    """Write a run.json, complete or not at all."""
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(state, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_state(file: Path) -> dict[str, Any]:
    """Read a run.json.

    Raises:
        RunError: when it is damaged, or of another version's format.
    """
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{file}: not a run.json: {error}") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT or not isinstance(state.get("stages"), dict):
        found = state.get("format") if isinstance(state, dict) else state
        raise RunError(f"{file}: expected format {FORMAT}, got {found!r}; made by another version of gdig?")
    return state


def _is_ours(path: Path) -> bool:
    """Whether a file in a directory without run.json is what a start leaves that was killed before it wrote that."""
    return path.name in (".lock", ".ranks") or (path.name.startswith(".run.json.") and path.suffix == ".tmp")


def _wait_for_ranks(path: Path) -> None:
    """Wait until no rank of an earlier start is at work in the directory: it might yet write a file of a stage that is
    about to start over. Ranks end within seconds of the one that has the lock."""
    if not (path / ".ranks").exists():
        return
    for _ in range(_LAST_RANKS_S):
        with contextlib.suppress(RunError):
            os.close(lock(path / ".ranks"))
            return
        time.sleep(1)
    os.close(lock(path / ".ranks"))


def _input_differences(then: dict[str, dict], now: dict[str, dict]) -> list[str]:
    """Name the input files that are new, gone or changed."""
    lines = []
    for kind in {**then, **now}:
        before, files = then.get(kind, {}), now.get(kind, {})
        for name in [*before, *(n for n in files if n not in before)]:
            if before.get(name) != files.get(name):
                what = "is gone" if name not in files else "is new" if name not in before else "changed"
                lines.append(f"{kind}: {name} {what} since the run began")
        if not lines and list(before) != list(files):
            lines.append(f"{kind}: the files come in another order than when the run began")
    return lines


def _versions() -> dict[str, str]:
    found = {name: version(name) for name in ("gdig", "torch", "transformers", "numpy")}
    return {**found, "python": platform.python_version()}
