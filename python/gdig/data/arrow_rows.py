"""Rows of Arrow columns on disk: Arrow files, `datasets` folders, Parquet. A column is read only where it is wanted."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gdig.errors import CorpusError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from datasets import Dataset

_FEATURES = b"huggingface"
"""Metadata of a schema in which `datasets` keeps its features, such as the names of a ClassLabel."""


class ArrowRows:
    """The rows of columns on disk, as stored: images, audio and the like are not decoded.

    Args:
        path: the file or folder.
        schema: the columns.
        n_rows: the number of rows.
        column: opens a column.
        files: the files with the content.
        lines: the line of each row, where the file has lines.

    Raises:
        CorpusError: if there are no rows, if a name is not UTF-8, or if two columns have one name.
    """

    def __init__(
        self,
        path: Path,
        schema: pa.Schema,
        n_rows: int,
        column: Callable[[str], pa.ChunkedArray],
        files: Sequence[Path] | None = None,
        lines: np.ndarray | None = None,
    ) -> None:
        self.path = path
        self._lines = lines
        self.files: tuple[Path, ...] = tuple(files or (path,))
        if n_rows == 0:
            raise CorpusError(f"{path}: holds no rows, expected at least one")
        try:
            names = schema.names
        except ValueError as error:
            raise CorpusError(f"{path}: the name of a column cannot be read: {error}") from None
        if repeated := {name for name in names if names.count(name) > 1}:
            raise CorpusError(
                f"{path}: two columns are named {sorted(repeated)[0]!r}; expected a name for each; rename one"
            )
        features = (schema.metadata or {}).get(_FEATURES)
        self.schema: pa.Schema = schema.with_metadata({_FEATURES: features} if features else None)
        self._n_rows = n_rows
        self._open = column
        self._columns: dict[str, _Column] = {}

    def __len__(self) -> int:
        return self._n_rows

    def fields(self) -> tuple[str, ...]:
        """Return the names of the columns."""
        return tuple(self.schema.names)

    def rows(self, start: int, stop: int, columns: frozenset[str] | None = None) -> list[dict[str, Any]]:
        """Return the rows from `start` up to `stop`, with those of `columns` that there are; None: all columns."""
        return self.take(range(start, stop), columns)

    def take(self, indices: Sequence[int], columns: frozenset[str] | None = None) -> list[dict[str, Any]]:
        """Return the rows at `indices`, in that order, with those of `columns` that there are; None: all columns."""
        from pyarrow import ArrowException

        names = [name for name in self.schema.names if columns is None or name in columns]
        if not names:
            return [{} for _ in indices]
        values = []
        for name in names:
            taken = self._taken(name, indices)
            try:
                values.append(_plain(taken))
            except KeyError as error:
                raise CorpusError(f"{self.path}: column {name!r}: a map has the key {error} twice") from None
            except (ArrowException, ValueError, TypeError, OverflowError) as error:  # a date that Python has not
                raise CorpusError(f"{self.path}: column {name!r} cannot be read: {error}") from None
        return [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]

    def table(self, indices: Sequence[int]) -> pa.Table:
        """Return the rows at `indices`, in that order, with the types of the file."""
        import pyarrow as pa

        return pa.table([self._taken(name, indices) for name in self.schema.names], schema=self.schema)

    def line(self, i: int) -> int | None:
        """Return the line on which row `i` begins, counted from 1. None where the file has no lines."""
        return None if self._lines is None else int(self._lines[i])

    def _taken(self, name: str, indices: Sequence[int]) -> pa.ChunkedArray:
        from pyarrow import ArrowException

        try:
            return self._column(name).take(indices)
        except (ArrowException, ValueError, IndexError) as error:  # a text that is not UTF-8
            raise CorpusError(f"{self.path}: column {name!r} cannot be read: {error}") from None

    def _column(self, name: str) -> _Column:
        if name not in self._columns:
            self._columns[name] = _Column(self._open(name))
        return self._columns[name]


class _Column:
    """A column in chunks, memory-mapped.

    Arrow itself checks neither lengths nor offsets of a file, and reads what they say, also outside of it. So lengths
    are checked here, and all of a chunk before its first value is read.

    Raises:
        pyarrow.ArrowInvalid: if lengths, or values that are taken, lie outside of the file.
    """

    def __init__(self, values: pa.ChunkedArray) -> None:
        values.validate()
        self.type = values.type
        self.chunks = [chunk for chunk in values.chunks if len(chunk)]
        self.ends = list(itertools.accumulate(map(len, self.chunks)))
        self._checked: set[int] = set()

    def take(self, indices: Sequence[int]) -> pa.ChunkedArray:
        """Return the values at `indices`, in that order. No value is copied."""
        import pyarrow as pa

        pieces = []
        position = 0
        while position < len(indices):
            first = indices[position]
            number = bisect.bisect_right(self.ends, first)
            start, most = (
                self.ends[number] - len(self.chunks[number]),
                min(len(indices), position + self.ends[number] - first),
            )
            if number not in self._checked:
                self.chunks[number].validate(full=True)
                self._checked.add(number)
            stop = next((i for i in range(position + 1, most) if indices[i] != first + i - position), most)
            pieces.append(self.chunks[number].slice(first - start, stop - position))
            position = stop
        return pa.chunked_array(pieces, type=self.type)


def _plain(values: pa.ChunkedArray) -> list[Any]:
    """Return the values as Python objects. A map is a dict."""
    return values.to_pylist(maps_as_pydicts="strict") if "map<" in str(values.type) else values.to_pylist()


def open_arrow(path: Path, shown: Path) -> ArrowRows:
    """Open an Arrow file (IPC file or stream), memory-mapped.

    Raises:
        CorpusError: if the file is damaged.
    """
    import pyarrow as pa

    try:
        table = read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(f"{shown}: cannot be read as Arrow: {error}") from None
    return ArrowRows(shown, table.schema, len(table), table.column)


def open_dataset(path: Path, dataset: Dataset) -> ArrowRows:
    """Open a Dataset of `datasets`. `path` is its folder, or its name."""
    if dataset._indices is not None:  # it reads all rows
        for table in (dataset.data, dataset._indices):
            table.table.validate(full=True)
        dataset = dataset.flatten_indices()
    files = [Path(file["filename"]) for file in dataset.cache_files]
    schema = dataset.features.arrow_schema
    return ArrowRows(path, schema, len(dataset), dataset.data.table.column, files)


def open_dataset_folder(path: Path) -> ArrowRows:
    """Open a folder that `Dataset.save_to_disk` wrote.

    Raises:
        CorpusError: if the folder is damaged, or holds several splits (naming the splits).
    """
    import datasets

    if (path / "dataset_dict.json").is_file():
        splits = sorted(child.name for child in path.iterdir() if (child / "state.json").is_file())
        raise CorpusError(
            f"{path}: a datasets folder of several splits ({', '.join(splits)}); name one, for instance"
            f" {path / (splits[0] if splits else 'train')}"
        )
    try:
        rows = open_dataset(path, datasets.load_from_disk(str(path)))
    except CorpusError:
        raise
    except Exception as error:  # datasets and pyarrow raise many kinds of errors on a damaged folder
        raise CorpusError(f"{path}: the datasets folder cannot be read: {error}") from None
    rows.files = (path,)
    return rows


def read_table(path: Path) -> pa.Table:
    """Return the table of an Arrow file, memory-mapped.

    Raises:
        pyarrow.ArrowException: if the file is damaged.
    """
    import pyarrow as pa

    source = pa.memory_map(str(path))
    try:
        return pa.ipc.open_file(source).read_all()
    except pa.ArrowInvalid:
        source.seek(0)
        return pa.ipc.open_stream(source).read_all()
