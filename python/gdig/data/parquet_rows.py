"""Rows of a Parquet file: a column is converted to Arrow in the cache when it is first read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from gdig.data.arrow_rows import ArrowRows, read_table
from gdig.data.cache import cached_folder
from gdig.errors import CorpusError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_VERSION = 2  # of the converted columns; files of another version are not used
_BATCH_ROWS = 1024


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
            start, before = 0, done
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
            else:
                if done == before:  # a forged number
                    raise pa.ArrowInvalid(f"row group {group} holds fewer rows than it says")


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
