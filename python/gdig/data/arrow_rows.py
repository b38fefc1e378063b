"""Rows of Arrow columns on disk: Parquet, Arrow files, `datasets` folders. A column is read only where it is wanted."""

from __future__ import annotations

import bisect
import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gdig.data.cache import cached_folder
from gdig.errors import CorpusError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Dataset

_VERSION = 2  # of the converted columns; files of another version are not used
_BATCH_ROWS = 1024
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
            try:
                values.append(_plain(self._column(name).take(indices)))
            except KeyError as error:
                raise CorpusError(f"{self.path}: column {name!r}: a map has the key {error} twice") from None
            except (ArrowException, ValueError, TypeError, OverflowError) as error:  # a text that is not UTF-8
                raise CorpusError(f"{self.path}: column {name!r} cannot be read: {error}") from None
        return [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]

    def table(self, indices: Sequence[int]) -> pa.Table:
        """Return the rows at `indices`, in that order, with the types of the file."""
        import pyarrow as pa

        return pa.table([self._column(name).take(indices) for name in self.schema.names], schema=self.schema)

    def line(self, i: int) -> int | None:
        """Return the line on which row `i` begins, counted from 1. None where the file has no lines."""
        return None if self._lines is None else int(self._lines[i])

    def _column(self, name: str) -> _Column:
        if name not in self._columns:
            self._columns[name] = _Column(self._open(name))
        return self._columns[name]


class _Column:
    """A column in chunks, memory-mapped."""

    def __init__(self, values: pa.ChunkedArray) -> None:
        self.type = values.type
        self.chunks = [chunk for chunk in values.chunks if len(chunk)]
        self.ends = list(itertools.accumulate(map(len, self.chunks)))

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
            stop = next((i for i in range(position + 1, most) if indices[i] != first + i - position), most)
            pieces.append(self.chunks[number].slice(first - start, stop - position))
            position = stop
        return pa.chunked_array(pieces, type=self.type)


def _plain(values: pa.ChunkedArray) -> list[Any]:
    """Return the values as Python objects. A map is a dict."""
    return values.to_pylist(maps_as_pydicts="strict") if "map<" in str(values.type) else values.to_pylist()


def open_parquet(path: Path, shown: Path, cache: Path) -> ArrowRows:
    """Open a Parquet file. A column is converted to Arrow in the cache when it is first read.

    Args:
        path: the file.
        shown: its name for messages, which is another for a file that was compressed.
        cache: the folder of the cache.

    Raises:
        CorpusError: if the file is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    def column(name: str) -> pa.ChunkedArray:
        # A name may be long, or no name of a file.
        kind = f"parquet-{_VERSION}-{blake2b(name.encode(), digest_size=8).hexdigest()}"
        try:
            folder = cached_folder(cache, kind, path, lambda folder: _convert(path, name, folder / "column.arrow"))
            return read_table(folder / "column.arrow").column(0)
        except (pa.ArrowException, OSError, ValueError, TypeError) as error:
            _raise_of_disk(error)
            raise CorpusError(f"{shown}: column {name!r} cannot be read: {error}") from None

    try:
        with contextlib.closing(pq.ParquetFile(path)) as file:
            schema, n_rows = file.schema_arrow, file.metadata.num_rows
    except (pa.ArrowException, OSError, ValueError, TypeError, NotImplementedError) as error:
        _raise_of_disk(error)
        raise CorpusError(f"{shown}: cannot be read as Parquet: {error}") from None
    return ArrowRows(shown, _without_dictionaries(schema), n_rows, column)


def _raise_of_disk(error: Exception) -> None:
    """Raise an error of the disk again. Arrow raises OSError for a damaged Parquet file too, which has no number."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error


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
    dataset = dataset.flatten_indices() if dataset._indices is not None else dataset
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


def _convert(path: Path, name: str, output: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with contextlib.closing(pq.ParquetFile(path)) as file:
        field = file.schema_arrow.field(name)
        plain = _without_dictionaries(pa.schema([field]))
        with pa.OSFile(str(output), "wb") as out, pa.ipc.new_file(out, plain) as writer:
            for batch in _batches(file, name):
                values = batch.column(0)
                # Only a dictionary needs a cast. Others can fail: of a struct in a list whose child is all null.
                if values.type != plain.field(0).type:
                    values = _decoded(values, plain.field(0).type)
                writer.write_batch(pa.record_batch([values], schema=plain))


def _batches(file: pq.ParquetFile, name: str) -> Iterator[pa.RecordBatch]:
    """Yield a column in batches. pyarrow refuses a batch with more than 2 GiB of nested data; it is read in halves."""
    import pyarrow as pa

    for group in range(file.num_row_groups):
        done, size = 0, _BATCH_ROWS
        while done < file.metadata.row_group(group).num_rows:
            start = 0
            try:
                for batch in file.iter_batches(size, row_groups=[group], columns=[name]):
                    stop = start + len(batch)
                    if stop > done:
                        yield batch.slice(max(0, done - start))
                        done = stop
                    start = stop
            except (pa.ArrowNotImplementedError, pa.ArrowCapacityError):
                if size == 1:
                    raise
                size //= 2


def _decoded(values: pa.Array, plain: pa.DataType) -> pa.Array:
    """Return the values of an array with dictionaries, without these."""
    import pyarrow as pa

    if pa.types.is_dictionary(values.type):
        return values.dictionary_decode()
    return pa.array(values.to_pylist(), type=plain)


def _without_dictionaries(schema: pa.Schema) -> pa.Schema:
    """Return the schema without the encoding by dictionaries, which a file holds once for all of its batches."""
    import pyarrow as pa

    return pa.schema([field.with_type(_without_dictionary(field.type)) for field in schema], schema.metadata)


def _without_dictionary(kind: pa.DataType) -> pa.DataType:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return kind.value_type
    if pa.types.is_struct(kind):
        fields = [kind.field(i) for i in range(kind.num_fields)]
        return pa.struct([field.with_type(_without_dictionary(field.type)) for field in fields])
    for is_kind, make in ((pa.types.is_list, pa.list_), (pa.types.is_large_list, pa.large_list)):
        if is_kind(kind):
            return make(kind.value_field.with_type(_without_dictionary(kind.value_type)))
    return kind
