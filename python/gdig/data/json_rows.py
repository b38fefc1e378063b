"""Rows of a JSONL file or a JSON list, read in place through an index of where each row starts.

One pass checks every row and writes its byte offset (8 bytes a row) to the cache. After that pass, one read and one
parse of the original file give any row exactly as written.

JSON is not converted, because the JSON reader of `datasets` copies a file into typed Arrow columns. That reader adds
nulls for missing keys. It turns texts that look like dates into timestamps, and whole numbers into floats. It refuses
valid files whose rows differ in type from one chunk to the next.

`json` reads the rows, not orjson: orjson turns integers beyond 64 bits into floats. The file is read, not
memory-mapped: if another program cuts the file short, a read gives an error, a memory map gives a SIGBUS.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from gdig.data.cache import cached_folder
from gdig.data.json_index import build_index, json_kind
from gdig.errors import ChangedFileError, CorpusError, MissingFileError

_VERSION = 1  # of the index; an index of another version is not used
_HEAD_ROWS = 32
_decode_row = json.JSONDecoder().raw_decode


class JsonRows:
    """The rows of one JSON file.

    Args:
        path: the file that is read.
        shown: its name for messages, which is another for a file that was compressed.
        cache: the folder of the cache.

    Raises:
        CorpusError: if a row is not a JSON object in UTF-8, if the file holds no row, or if the file changes while it
            is read. The error names the file, and line and column or the item.
    """

    def __init__(self, path: Path, shown: Path, cache: Path) -> None:
        self.path = shown
        self.files: tuple[Path, ...] = (shown,)
        self._file = path
        self._status = _status(path)
        kind = json_kind(path, shown)
        index = cached_folder(cache, f"{kind}-{_VERSION}", path, lambda folder: build_index(path, shown, kind, folder))
        if _status(path) != self._status:
            raise ChangedFileError(
                f"{shown}: the file changed while it was being read; start again when it is complete"
            )
        self._starts = _int64_file(index / "starts")  # [N + 1]; the last value is the end of the last row
        self._blanks = _int64_file(index / "blanks") if kind == "lines" else None  # rows that follow a blank line

    def __len__(self) -> int:
        return len(self._starts) - 1

    def fields(self) -> tuple[str, ...]:
        """Return the names of the fields of the first rows, in the order in which they come."""
        return tuple(dict.fromkeys(name for row in self.rows(0, min(_HEAD_ROWS, len(self))) for name in row))

    def rows(self, start: int, stop: int, columns: frozenset[str] | None = None) -> list[dict[str, Any]]:
        """Return the rows from `start` up to `stop`, with all fields: a row is parsed whole."""
        with self._open() as file:
            return self._read(file, start, stop)

    def take(self, indices: Sequence[int], columns: frozenset[str] | None = None) -> list[dict[str, Any]]:
        """Return the rows at `indices`, in that order, with all fields."""
        with self._open() as file:
            return [self._read(file, i, i + 1)[0] for i in indices]

    def line(self, i: int) -> int | None:
        """Return the line of row `i`, counted from 1. Return None for a JSON list."""
        return None if self._blanks is None else i + 1 + int(np.searchsorted(self._blanks, i, side="right"))

    def _open(self) -> BinaryIO:
        try:
            file = self._file.open("rb")
        except OSError as error:
            raise MissingFileError(f"{self.path}: cannot be read: {error.strerror or error}") from None
        status = os.fstat(file.fileno())
        if (status.st_size, status.st_mtime_ns) != self._status:
            file.close()
            raise self._changed()
        return file

    def _read(self, file: BinaryIO, start: int, stop: int) -> list[dict[str, Any]]:
        if stop <= start:
            return []
        starts = self._starts[start : stop + 1].tolist()
        file.seek(starts[0])
        data = file.read(starts[-1] - starts[0])
        try:
            # Blanks, and in a list a comma, follow a row: raw_decode stops before them.
            spans = itertools.pairwise(starts)
            return [_decode_row(data[a - starts[0] : b - starts[0]].decode())[0] for a, b in spans]
        except ValueError:
            raise self._changed() from None

    def _changed(self) -> CorpusError:
        return ChangedFileError(f"{self.path}: the file changed since it was opened; start again")


def _status(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise MissingFileError(f"{path}: cannot be read: {error.strerror or error}") from None
    return status.st_size, status.st_mtime_ns


def _int64_file(path: Path) -> np.ndarray:
    return np.memmap(path, dtype="<i8", mode="r") if path.stat().st_size else np.empty(0, dtype=np.int64)
