"""Faults of files: what a bad disk, a bad copy or somebody else's run does to a run directory."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from random import Random

_WHEN_NEEDED = ("tokens/", "sources/", "excluded/", "features/hidden_mean")
KINDS = ("changed", "cut", "emptied", "deleted", "swapped", "foreign")


@dataclass(frozen=True)
class Fault:
    """A fault of one file. kind: of `KINDS`. file: relative to the run. other: the file that takes its place."""

    kind: str
    file: str
    other: str | None = None

    def must_be_seen(self, with_record: bool) -> bool:
        """Whether verify has to name the file. Selections make some files when they need them. Without a sound record
        (`with_record` off) nothing says which files there should be, nor what they are made from."""
        if self.file == "excluded.jsonl":  # for people; no other file depends on it
            return False
        if self.kind == "deleted" and self.file.startswith(_WHEN_NEEDED):
            return False
        if with_record or self.file == "run.json":
            return True
        return self.kind in ("changed", "cut", "emptied") and self.file.endswith((".safetensors", "store.json"))

    def __str__(self) -> str:
        return f"{self.kind} {self.file}" + (f" with {self.other}" if self.other else "")


def files_of(run: Path) -> list[str]:
    """The files of a run but for the locks, relative to it, sorted."""
    files = (path for path in run.rglob("*") if path.is_file() and not path.name.startswith("."))
    return sorted(path.relative_to(run).as_posix() for path in files)


def siblings(run: Path, file: str) -> list[str]:
    """Other files beside a file, of its kind and of another content."""
    path = run / file
    others = sorted(other for other in path.parent.iterdir() if other.is_file() and other.suffix == path.suffix)
    content = path.read_bytes()
    return [o.relative_to(run).as_posix() for o in others if o != path and o.read_bytes() != content]


def inject(
    run: Path, file: str, kind: str, rng: Random, other_run: Path | None = None, struck: Collection[str] = ()
) -> Fault | None:
    """Put a fault into a file of a run; None where this kind of fault changes nothing there. A swap takes none of the
    files `struck` before: it would move their faults to other files, or undo a swap."""
    path = run / file
    before = path.read_bytes()
    other: str | None = None
    if kind == "changed":
        content = bytearray(before)
        for _ in range(rng.choice((1, 1, 2, 16))):
            content[rng.randrange(len(content))] ^= rng.randrange(1, 256)
        path.write_bytes(content)
    elif kind == "cut":
        path.write_bytes(before[: rng.randrange(len(before))])
    elif kind == "emptied":
        path.write_bytes(b"")
    elif kind == "deleted":
        path.unlink()
    elif kind == "swapped":
        if not (beside := [other for other in siblings(run, file) if other not in struck]):
            return None
        other = rng.choice(beside)
        content_of_other = (run / other).read_bytes()
        (run / other).write_bytes(before)
        path.write_bytes(content_of_other)
    else:
        assert kind == "foreign" and other_run is not None, kind
        if not (other_run / file).is_file():
            return None
        other = "that of another run"
        shutil.copyfile(other_run / file, path)
    if path.is_file() and path.read_bytes() == before:
        return None
    return Fault(kind, file, other)
