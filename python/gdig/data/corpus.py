"""A corpus: the rows of one or more files, in the order given.

The rows stay on disk and are read by number. JSON is read in place (`json_rows` says why it is not converted). Other
files are read as memory-mapped Arrow. A corpus keeps a few values a file in memory. `files` says what a name may mean.
"""

from __future__ import annotations

import bisect
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from gdig.data.cache import default_cache
from gdig.data.files import expand, open_source
from gdig.data.unchanged import Unchanged
from gdig.errors import CorpusError

if TYPE_CHECKING:
    import pyarrow as pa

_CHUNK = 1024

Columns: TypeAlias = "frozenset[str] | None"
"""The fields that are wanted of a row. Others may be missing then. None: all of them."""


class Source(Protocol):
    """The rows of a file or a folder."""

    path: Path
    files: tuple[Path, ...]

    def __len__(self) -> int: ...
    def fields(self) -> tuple[str, ...]: ...  # noqa: D102
    def rows(self, start: int, stop: int, columns: Columns = None) -> list[dict[str, Any]]: ...  # noqa: D102
    def take(self, indices: Sequence[int], columns: Columns = None) -> list[dict[str, Any]]: ...  # noqa: D102
    def line(self, i: int) -> int | None: ...  # noqa: D102


def open_corpus(
    paths: Sequence[str | os.PathLike[str]], *, name: str = "candidates", cache_dir: str | Path | None = None
) -> Corpus:
    """Open files as one corpus. The first open of a JSON file checks every row; later opens use the cached index.

    Args:
        paths: files, folders, globs, or names of datasets on the Hugging Face hub, in any mix
            (:mod:`gdig.data.files`). Row numbers run through the files in this order. The matches of a glob, and the
            files of a folder, are sorted.
        name: what the corpus is for. Errors begin with it.
        cache_dir: the folder of the cache, by the content of the files. It holds the index of a JSON file, 8 bytes a
            row. Of a Parquet file it holds the columns that have been read, and CSV and compressed files whole, all
            without compression. Default: `gdig` in XDG_CACHE_HOME or ~/.cache.

    Raises:
        CorpusError: if a file is missing, empty, damaged, of an unknown kind or given twice. Also if a glob matches no
            file, or if a row is not an object. The error names the file, and line and column where they are known.
    """
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
    inputs = [file for path in paths for file in expand(os.fspath(path), name)]
    if not inputs:
        raise CorpusError(f"{name}: no files given, expected at least one")
    seen: set[object] = set()
    for file in inputs:
        if (real := file.resolve() if isinstance(file, Path) else file) in seen:
            raise CorpusError(f"{name}: {file} is given twice, expected each file once")
        seen.add(real)
    cache = Path(cache_dir) if cache_dir is not None else default_cache()
    return Corpus(name, [open_source(file, name, cache) for file in inputs])


class Corpus:
    """The rows of all files by number, 0 to `len(corpus) - 1`. :func:`open_corpus` makes a corpus."""

    def __init__(self, name: str, sources: Sequence[Source]) -> None:
        self.name = name
        self._sources = list(sources)
        self._unchanged = [Unchanged(source.files) for source in sources]
        self._ends = list(itertools.accumulate(len(source) for source in sources))

    def __len__(self) -> int:
        return self._ends[-1]

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files, folders and datasets, in row order. Globs are expanded."""
        return tuple(source.path for source in self._sources)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files and folders that hold the content."""
        return tuple(file for source in self._sources for file in source.files)

    @property
    def ends(self) -> tuple[int, ...]:
        """The number of the row after the last row of each file."""
        return tuple(self._ends)

    @property
    def n_files(self) -> int:
        """How many files there are."""
        return len(self._sources)

    def file_of(self, i: int) -> int:
        """Return the number of the file that holds row `i`."""
        return self._locate(int(i))[0]

    def first_row(self, file: int) -> int:
        """Return the number of a file's first row."""
        return self._ends[file - 1] if file else 0

    def fields_of(self, file: int) -> tuple[str, ...]:
        """Return the names of a file's columns, or of the fields of its first rows, in their order."""
        return self._sources[file].fields()

    def head(self, file: int, n: int, columns: Columns = None) -> list[dict[str, Any]]:
        """Return the first `n` rows of a file."""
        source = self._source(file)
        return source.rows(0, min(n, len(source)), columns)

    def schema_of(self, file: int) -> pa.Schema | None:
        """Return the Arrow schema of a file. None if it is JSON."""
        schema: pa.Schema | None = getattr(self._sources[file], "schema", None)
        return schema

    @property
    def schema(self) -> pa.Schema | None:
        """The Arrow schema of all files. None if a file is JSON or if the schemas differ."""
        schemas = [self.schema_of(file) for file in range(self.n_files)]
        return schemas[0] if all(schema is not None and schema == schemas[0] for schema in schemas) else None

    def rows(self, start: int, stop: int, columns: Sequence[Columns] | None = None) -> list[dict[str, Any]]:
        """Return the rows from `start` up to `stop` (exclusive; 0 <= start <= stop <= len(corpus)).

        Args:
            start: the first row.
            stop: the row after the last row.
            columns: the fields that are wanted, for each file. None: all fields.
        """
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"rows {start} to {stop} of a corpus of {len(self)} rows")
        rows: list[dict[str, Any]] = []
        while start < stop:
            number, local = self._locate(start)
            source = self._source(number)
            end = min(len(source), local + stop - start)
            rows += source.rows(local, end, columns[number] if columns else None)
            start += end - local
        return rows

    def take(
        self, indices: Sequence[int] | np.ndarray, columns: Sequence[Columns] | None = None
    ) -> list[dict[str, Any]]:
        """Return the rows at `indices`, in that order. An index may be repeated. `columns` is as in :meth:`rows`."""
        locations = [self._locate(int(i)) for i in indices]
        rows: list[dict[str, Any]] = [{}] * len(locations)
        by_source: dict[int, list[int]] = {}
        for position, (number, _) in enumerate(locations):
            by_source.setdefault(number, []).append(position)
        for number, positions in by_source.items():
            wanted = [locations[position][1] for position in positions]
            rows_of_source = self._source(number).take(wanted, columns[number] if columns else None)
            for position, row in zip(positions, rows_of_source, strict=True):
                rows[position] = row
        return rows

    def table(self, indices: Sequence[int] | np.ndarray) -> pa.Table | None:
        """Return the rows at `indices`, in that order, with the types of their files. None where `schema` is None."""
        import pyarrow as pa

        if self.schema is None:
            return None
        tables: list[pa.Table] = []
        for number, group in itertools.groupby((self._locate(int(i)) for i in indices), key=lambda place: place[0]):
            tables.append(self._source(number).table([local for _, local in group]))  # type: ignore[attr-defined]
        return pa.concat_tables(tables) if tables else self.schema.empty_table()

    def stream(self, indices: Sequence[int] | np.ndarray) -> Iterator[dict[str, Any]]:
        """Yield the rows at `indices`, in that order. Memory holds 1,024 rows at a time."""
        for start in range(0, len(indices), _CHUNK):
            yield from self.take(indices[start : start + _CHUNK])

    def where(self, i: int) -> str:
        """Name the place of row `i`: `pool.jsonl, row 17 (line 18)`. In each file rows count from 0, lines from 1."""
        number, local = self._locate(int(i))
        source = self._sources[number]
        line = source.line(local)
        return f"{source.path}, row {local}" + (f" (line {line})" if line is not None else "")

    def _source(self, number: int) -> Source:
        """Return the source of a file whose rows are read, if its files are as they were when it was opened."""
        self._unchanged[number].check()
        return self._sources[number]

    def _locate(self, i: int) -> tuple[int, int]:
        if not 0 <= i < len(self):
            raise IndexError(f"row {i} of a corpus of {len(self)} rows")
        number = bisect.bisect_right(self._ends, i)
        return number, i - (self._ends[number - 1] if number else 0)
