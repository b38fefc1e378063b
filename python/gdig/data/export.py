"""Writes the chosen rows: as they are or in another format, each with an object `gdig` that tells why it was chosen."""

from __future__ import annotations

import contextlib
import datetime
import decimal
import gzip
import json
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

from gdig.config.options import OUTPUT_ENDINGS
from gdig.errors import ConfigError, OutputError
from gdig.store.atomic import replacing

if TYPE_CHECKING:
    import pyarrow as pa

    from gdig.data.corpus import Corpus

FIELD = "gdig"
_OTHERWISE = "choose a format (messages or tokens), which gives all rows the same columns"
_CHUNK = 1024

Row: TypeAlias = "dict[str, Any]"
Convert: TypeAlias = "Callable[[int, Row], Row]"
"""Makes the row to write from the number and the fields of a row of the corpus."""
_Rows: TypeAlias = "Callable[[], Iterator[tuple[int, Row]]]"
_Tables: TypeAlias = "tuple[pa.Schema, Iterator[pa.Table]]"


def ending_of(path: str | os.PathLike[str]) -> str | None:
    """Return how the name of an output ends, in small letters; None for a name that no output has."""
    name = os.fspath(path).lower()
    return next((ending for ending in OUTPUT_ENDINGS if name.endswith(ending)), None)


def export(
    corpus: Corpus,
    rows: Sequence[int] | np.ndarray,
    columns: Sequence[Mapping[str, Any]] | None,
    path: str | os.PathLike[str],
    convert: Convert | None = None,
) -> None:
    """Write rows of a corpus, in the order given, each with its `columns` as an object named `gdig`.

    Fields and values are those of the source, or those that `convert` makes of them. From columns to Parquet, types and
    the features of `datasets` stay. A field `gdig` of the source is replaced. Dates (in ISO form) and UUIDs become
    text in .jsonl, because JSON has neither. The bytes depend only on the arguments, for Parquet also on pyarrow's
    version, and for .gz on zlib's. The file is complete or absent.

    Args:
        corpus: where the rows are.
        rows: row numbers, [n].
        columns: the object `gdig` of each row, [n]. Values are JSON values or NumPy scalars. None: rows without a
            field `gdig`.
        path: a name that ends in .jsonl, .jsonl.gz or .parquet. Missing parent folders are made.
        convert: makes the row to write from the number and the fields of a row. None: rows as they are.

    Raises:
        ConfigError: if `path` has another ending.
        CorpusError: naming row and field, if the format cannot hold a value; or if the file cannot be written.
    """
    if columns is not None and len(rows) != len(columns):
        raise ValueError(f"{len(rows)} rows but {len(columns)} columns")
    path, ending = Path(path), ending_of(path)
    if ending is None:
        raise ConfigError(f"output: expected a name ending in {', '.join(OUTPUT_ENDINGS)}, got {str(path)!r}")
    source = partial(rows_to_write, corpus, rows, columns, convert)
    with complete_or_absent(path) as temporary:
        if ending != ".parquet":
            _write_jsonl(corpus, source, temporary, compressed=ending.endswith(".gz"))
        else:
            is_typed = convert is None and corpus.schema is not None
            tables = partial(_typed_tables, corpus, rows, columns) if is_typed else partial(_tables_of_rows, source)
            _write_parquet(corpus.name, tables, temporary)


@contextlib.contextmanager
def complete_or_absent(path: Path) -> Iterator[Path]:
    """Write an output as a whole (:func:`gdig.store.atomic.replacing`). What earlier processes left of it is removed.

    Raises:
        OutputError: if the file cannot be written.
    """
    with replacing(path, OutputError) as temporary:
        _remove_abandoned(path)
        yield temporary


def _remove_abandoned(path: Path) -> None:
    """Remove temporary files of this output whose process has ended."""
    for file in path.parent.iterdir():
        if match := re.fullmatch(re.escape(f".{path.name}") + r"\.(\d+)\.tmp", file.name):
            try:
                os.kill(int(match[1]), 0)
            except ProcessLookupError:
                file.unlink(missing_ok=True)
            except (PermissionError, OverflowError):  # another user's process; not a process number
                continue


def rows_to_write(
    corpus: Corpus,
    rows: Sequence[int] | np.ndarray,
    columns: Sequence[Mapping[str, Any]] | None,
    convert: Convert | None,
) -> Iterator[tuple[int, Row]]:
    """Yield the number of each row, and what :func:`export` writes of it; the arguments are those of `export`."""
    for i, (row, content) in enumerate(zip(rows, corpus.stream(rows), strict=True)):
        if convert is not None:
            content = convert(int(row), content)
        content = {key: value for key, value in content.items() if key != FIELD}
        if columns is not None:
            content[FIELD] = _plain(columns[i])
        yield row, content


def _plain(column: Mapping[str, Any]) -> Row:
    return {key: getattr(value, "item", lambda v=value: v)() for key, value in column.items()}


@contextlib.contextmanager
def _opened(path: Path, compressed: bool) -> Iterator[IO[bytes] | gzip.GzipFile]:
    with path.open("wb") as file:
        if not compressed:
            yield file
            return
        # Without name and time, so that the same rows give the same bytes.
        with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0, compresslevel=6) as packed:
            yield packed


def _write_jsonl(corpus: Corpus, rows: _Rows, temporary: Path, *, compressed: bool) -> None:
    with _opened(temporary, compressed) as file:
        for row, content in rows():
            line = json_line(corpus, row, content)
            try:
                file.write(line.encode() + b"\n")
            except UnicodeEncodeError:  # half of a surrogate pair: JSON can hold it only as an escape
                file.write(json.dumps(content, default=_json_value).encode() + b"\n")


def json_line(corpus: Corpus, row: int, content: Row) -> str:
    """Return a row as JSON.

    Raises:
        OutputError: naming row and field, if JSON cannot hold a value.
    """
    try:
        return json.dumps(content, ensure_ascii=False, default=_json_value)
    except (TypeError, ValueError):
        raise OutputError(f"{corpus.where(row)}: {_unwritable(content)}") from None


def _json_value(value: Any) -> str:
    if isinstance(value, (datetime.date, datetime.time)):  # a datetime is also a date
        return value.isoformat()
    if isinstance(value, (decimal.Decimal, uuid.UUID)):
        return str(value)
    raise TypeError


def _unwritable(content: Mapping[str, Any]) -> str:
    for field, value in content.items():
        try:
            json.dumps(value, default=_json_value)
        except (TypeError, ValueError):
            return (
                f"field {field!r}: a value that JSON cannot hold (such as bytes); write a .parquet file instead, or"
                f" {_OTHERWISE}"
            )
    return "a value that JSON cannot hold"


def _write_parquet(name: str, tables: Callable[[], _Tables], temporary: Path) -> None:
    import pyarrow.parquet as pq

    with parquet_errors(name):
        schema, chunks = tables()
        with pq.ParquetWriter(temporary, schema) as writer:
            for chunk in chunks:
                writer.write_table(chunk)


@contextlib.contextmanager
def parquet_errors(name: str) -> Iterator[None]:
    """Raise OutputError, with the name of the corpus, where rows do not fit into columns."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
        reason = str(error).partition("\n")[0]
        raise OutputError(
            f"{name}: the rows do not fit into Parquet columns: {reason}; write a .jsonl file instead, or {_OTHERWISE}"
        ) from None


def _tables_of_rows(rows: _Rows) -> _Tables:
    """Return rows as columns in two passes, because the type of a column depends on all rows."""
    import pyarrow as pa

    schema = schema_of(rows())
    chunks = ([content for _, content in chunk] for chunk in _chunks(rows()))
    return schema, (pa.Table.from_pylist(chunk, schema=schema) for chunk in chunks)


def _typed_tables(
    corpus: Corpus, rows: Sequence[int] | np.ndarray, columns: Sequence[Mapping[str, Any]] | None
) -> _Tables:
    """Return rows with the types and the features of their files, and the field gdig last."""
    reasons = as_table(corpus.name, [{FIELD: _plain(column)} for column in columns]) if columns else None

    def chunk(start: int, stop: int) -> pa.Table:
        table = cast("pa.Table", corpus.table(rows[start:stop]))
        if FIELD in table.column_names:
            table = table.drop_columns([FIELD])
        if reasons is None:
            return table
        return table.append_column(reasons.field(FIELD), reasons.column(FIELD).slice(start, stop - start))

    return chunk(0, 0).schema, (chunk(start, start + _CHUNK) for start in range(0, len(rows), _CHUNK))


def as_table(name: str, rows: Sequence[Row]) -> pa.Table:
    """Return rows as an Arrow table, whose columns have types that hold all their values.

    Raises:
        CorpusError: with the `name` of the rows and the field, if a field has values of several kinds.
    """
    import pyarrow as pa

    try:
        schema = schema_of(iter(enumerate(rows)))
        return pa.Table.from_pylist(list(rows), schema=schema)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
        raise OutputError(
            f"{name}: the rows do not fit into columns: {str(error).partition(chr(10))[0]}; {_OTHERWISE}"
        ) from None


def schema_of(rows: Iterator[tuple[int, Row]]) -> pa.Schema:
    """Return the columns of rows, with types that hold all of their values."""
    import pyarrow as pa

    schema = pa.schema([])
    for chunk in _chunks(rows):
        schema = _widened(schema, chunk)
    return schema


def _widened(schema: pa.Schema, chunk: list[tuple[int, dict[str, Any]]]) -> pa.Schema:
    """Return `schema` with the columns of a chunk. A column has a type that holds all of its values."""
    import pyarrow as pa

    names = dict.fromkeys(name for _, content in chunk for name in content)
    fields = []
    for name in names:
        try:
            fields.append(pa.field(name, pa.array([content.get(name) for _, content in chunk]).type))
        except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
            raise pa.ArrowInvalid(f"field {name!r}: {error}") from None
    widened = pa.unify_schemas([schema, pa.schema(fields)], promote_options="permissive")
    # The field gdig comes last, also after the fields that only a later chunk has.
    gdig_field = [widened.field(FIELD)] if FIELD in widened.names else []
    return pa.schema([field for field in widened if field.name != FIELD] + gdig_field)


def _chunks(rows: Iterator[tuple[int, dict[str, Any]]]) -> Iterator[list[tuple[int, dict[str, Any]]]]:
    chunk: list[tuple[int, dict[str, Any]]] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
