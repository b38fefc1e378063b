"""Groups of the files of a run: files of one kind in one folder, and what they are made from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, overload

from gdig.run.origin import origin_at
from gdig.store.numbered import numbered_file

Kind = Literal["files", "store", "labels"]


@dataclass(frozen=True)
class FileGroup:
    """Files of one kind in one folder.

    Args:
        name: of the group, for messages: the folder's path in the run directory.
        stage: the stage that leaves the files.
        folder: where the files lie.
        files: all files that the stage leaves there once it is done.
        done: whether the stage is done, so that every one of `files` must be there.
        origin: what the files are made from (gdig.run.origin); None for resume files and labels, which say more.
        key: what the files of shards depend on besides.
        rows, rows_per_shard: of the sweep, for the files of shards, whose origin may be a step of growth.
        kind: "store" for a sketch store, with a `store.json` beside the files; "labels" for label files.
        optional: files that may lie there besides, with their origins; None for those that say more.
    """

    name: str
    stage: str
    folder: Path
    files: Sequence[Path]
    done: bool
    origin: str | None = None
    kind: Kind = "files"
    key: str = ""
    rows: int = 0
    rows_per_shard: int = 1
    optional: Mapping[Path, str | None] = field(default_factory=dict)

    def origin_of(self, file: Path) -> str:
        """What one of the files is made from."""
        assert self.origin is not None
        number = int(file.stem) if file.stem.isdigit() else 0
        stop = min(self.rows, (number + 1) * self.rows_per_shard) if file.stem.isdigit() else 0
        return " ".join(filter(None, (origin_at(self.origin, stop), self.key)))


class NumberedFiles(Sequence[Path]):
    """The files of a folder that are numbered from 0 to `count` - 1, and `more` after them, named when asked for."""

    def __init__(self, folder: Path, count: int, *more: Path) -> None:
        self._folder, self._count, self._more = folder, count, more

    def __len__(self) -> int:
        return self._count + len(self._more)

    def __contains__(self, file: object) -> bool:
        """Without a look at every file."""
        if not isinstance(file, Path) or file.parent != self._folder:
            return file in self._more
        number = int(file.stem) if re.fullmatch(r"[0-9]{8,12}", file.stem) else self._count
        return (number < self._count and file == numbered_file(self._folder, number)) or file in self._more

    @overload
    def __getitem__(self, at: int) -> Path: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Path]: ...
    def __getitem__(self, at: int | slice) -> Path | Sequence[Path]:
        if isinstance(at, slice):
            return tuple(self[i] for i in range(len(self))[at])
        i = range(len(self))[at]
        return numbered_file(self._folder, i) if i < self._count else self._more[i - self._count]
