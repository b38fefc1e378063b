"""A corpus: the rows of one or more files, in the order given, without ever being a list in memory.

A file's rows stay on disk and are reached by number: JSON in place (see `json_rows` for why it is not converted),
Parquet and `datasets` folders as memory-mapped Arrow. What a corpus keeps in memory is a few values a file.
"""

from __future__ import annotations

import bisect
import glob
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from gdig.data.arrow_rows import ArrowRows
from gdig.data.cache import default_cache
from gdig.data.json_rows import JsonRows
from gdig.errors import CorpusError

if TYPE_CHECKING:
    import pyarrow as pa

_CHUNK = 1024
_JSON, _PARQUET = (".jsonl", ".ndjson", ".json"), (".parquet",)


class _Source(Protocol):
    path: Path

    def __len__(self) -> int: ...
    def rows(self, start: int, stop: int) -> list[dict[str, Any]]: ...
    def take(self, indices: Sequence[int]) -> list[dict[str, Any]]: ...
    def line(self, i: int) -> int | None: ...


def open_corpus(
    paths: Sequence[str | os.PathLike[str]], *, name: str = "candidates", cache_dir: str | Path | None = None
) -> Corpus:
    """Open files as one corpus. Every row of a JSON file is checked the first time; later opens reuse what was learnt.

    Args:
        paths: JSONL, JSON lists, Parquet files, `datasets` folders (a split of a DatasetDict as `folder/split`), or
            globs of these, in any mix. Rows are numbered through them in this order, a glob's matches sorted.
        name: what the corpus is for, named in errors.
        cache_dir: where the index of a JSON file (8 bytes a row) and the Arrow form of a Parquet file (its size
            uncompressed) are kept, by the content of the file. Default: `gdig` in XDG_CACHE_HOME or ~/.cache.

    Raises:
        CorpusError: naming the file, and the line and column where there is one, if a file is missing, empty, of an
            unknown kind, given twice or damaged, if a glob matches nothing, or if a row is not an object.
    """
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
    files = [file for path in paths for file in _expand(os.fspath(path), name)]
    if not files:
        raise CorpusError(f"{name}: no files given")
    seen: set[Path] = set()
    for file in files:
        if (real := file.resolve()) in seen:
            raise CorpusError(f"{name}: {file} is given twice")
        seen.add(real)
    cache = Path(cache_dir) if cache_dir is not None else default_cache()
    return Corpus(name, [_open(file, name, cache) for file in files])


class Corpus:
    """Rows by number, 0 to `len(corpus) - 1`, through all files. Made by :func:`open_corpus`."""

    def __init__(self, name: str, sources: Sequence[_Source]) -> None:
        self.name = name
        self._sources = list(sources)
        self._ends = list(itertools.accumulate(len(source) for source in sources))

    def __len__(self) -> int:
        return self._ends[-1]

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files and folders, globs expanded, in row order."""
        return tuple(source.path for source in self._sources)

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the first row's fields, in its order."""
        return tuple(self.rows(0, 1)[0])

    @property
    def schema(self) -> pa.Schema | None:
        """The Arrow schema that all files share; None if there is a JSON file or if the schemas differ."""
        schemas = [getattr(source, "schema", None) for source in self._sources]
        return schemas[0] if all(schema is not None and schema == schemas[0] for schema in schemas) else None

    def rows(self, start: int, stop: int) -> list[dict[str, Any]]:
        """Return the rows from `start` up to `stop` (exclusive; 0 <= start <= stop <= len(corpus))."""
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"rows {start} to {stop} of a corpus of {len(self)} rows")
        rows: list[dict[str, Any]] = []
        while start < stop:
            number, local = self._locate(start)
            source = self._sources[number]
            end = min(len(source), local + stop - start)
            rows += source.rows(local, end)
            start += end - local
        return rows

    def take(self, indices: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
        """Return the rows at `indices`, in that order; an index may come more than once."""
        places = [self._locate(int(i)) for i in indices]
        rows: list[dict[str, Any]] = [{}] * len(places)
        by_source: dict[int, list[int]] = {}
        for position, (number, _) in enumerate(places):
            by_source.setdefault(number, []).append(position)
        for number, positions in by_source.items():
            found = self._sources[number].take([places[position][1] for position in positions])
            for position, row in zip(positions, found, strict=True):
                rows[position] = row
        return rows

    def whole(self, indices: Sequence[int] | np.ndarray) -> Iterator[dict[str, Any]]:
        """Yield the rows at `indices` with exactly the fields and values of the source, 1,024 in memory at a time."""
        for start in range(0, len(indices), _CHUNK):
            yield from self.take(indices[start : start + _CHUNK])

    def where(self, i: int) -> str:
        """Say where row `i` lies: `pool.jsonl, row 17 (line 18)`; rows count from 0 in each file, lines from 1."""
        number, local = self._locate(int(i))
        source = self._sources[number]
        line = source.line(local)
        return f"{source.path}, row {local}" + (f" (line {line})" if line is not None else "")

    def _locate(self, i: int) -> tuple[int, int]:
        if not 0 <= i < len(self):
            raise IndexError(f"row {i} of a corpus of {len(self)} rows")
        number = bisect.bisect_right(self._ends, i)
        return number, i - (self._ends[number - 1] if number else 0)


def _expand(path: str, name: str) -> list[Path]:
    """Expand a glob, unless a file of that very name exists."""
    if Path(path).exists():
        return [Path(path)]
    if not glob.has_magic(path):
        raise CorpusError(f"{name}: {path}: no such file or folder")
    matches = sorted(glob.glob(path, recursive=True))  # noqa: PTH207 (Path.glob takes no absolute pattern)
    if not matches:
        raise CorpusError(f"{name}: {path}: the pattern matches no file")
    return [Path(match) for match in matches]


def _open(path: Path, name: str, cache: Path) -> _Source:
    if path.is_dir():
        return ArrowRows.from_folder(path)
    if path.suffix in _PARQUET:
        return ArrowRows.from_parquet(path, cache)
    if path.suffix in _JSON:
        return JsonRows(path, cache)
    raise CorpusError(
        f"{name}: {path}: unknown kind of file {path.suffix or '(no extension)'!r}; expected"
        f" {', '.join((*_JSON, *_PARQUET))} (not compressed) or a datasets folder"
    )
