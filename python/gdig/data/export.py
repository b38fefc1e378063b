"""Writes the chosen rows, each with an object `gdig` that tells why it was chosen."""

from __future__ import annotations

import contextlib
import datetime
import decimal
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gdig.data.cache import sync
from gdig.errors import ConfigError, CorpusError

if TYPE_CHECKING:
    import pyarrow as pa

    from gdig.data.corpus import Corpus

FIELD = "gdig"
_CHUNK = 1024


def export(
    corpus: Corpus, rows: Sequence[int] | np.ndarray, columns: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]
) -> None:
    """Write rows of a corpus, in the order given, each with its `columns` as an object named `gdig`.

    Fields and values are those of the source. A field `gdig` of the source is replaced. Dates become ISO text in
    .jsonl, because JSON has no dates. The bytes depend only on the arguments, and for Parquet on pyarrow's version.
    The file is complete or absent.

    Args:
        corpus: where the rows are.
        rows: row numbers, [n].
        columns: the object `gdig` of each row, [n]. Values are JSON values or NumPy scalars.
        path: a name that ends in .jsonl or .parquet. Missing parent folders are made.

    Raises:
        ConfigError: if `path` has another ending.
        CorpusError: naming row and field, if the format cannot hold a value; or if the file cannot be written.
    """
    if len(rows) != len(columns):
        raise ValueError(f"{len(rows)} rows but {len(columns)} columns")
    path = Path(path)
    writers = {".jsonl": _write_jsonl, ".parquet": _write_parquet}
    if path.suffix not in writers:
        raise ConfigError(f"output: expected a name ending in .jsonl or .parquet, got {str(path)!r}")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        writers[path.suffix](corpus, rows, columns, temporary)
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        raise CorpusError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


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


def _rows_with_column(
    corpus: Corpus, rows: Sequence[int] | np.ndarray, columns: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[int, dict[str, Any]]]:
    for row, content, column in zip(rows, corpus.stream(rows), columns, strict=True):
        plain = {key: value.item() if hasattr(value, "item") else value for key, value in column.items()}
        yield row, {**{key: value for key, value in content.items() if key != FIELD}, FIELD: plain}


def _write_jsonl(
    corpus: Corpus, rows: Sequence[int] | np.ndarray, columns: Sequence[Mapping[str, Any]], temporary: Path
) -> None:
    with temporary.open("wb") as file:
        for row, content in _rows_with_column(corpus, rows, columns):
            try:
                line = json.dumps(content, ensure_ascii=False, default=_json_value)
            except (TypeError, ValueError):
                raise CorpusError(f"{corpus.where(row)}: {_unwritable(content)}") from None
            try:
                file.write(line.encode() + b"\n")
            except UnicodeEncodeError:  # half of a surrogate pair: JSON can hold it only as an escape
                file.write(json.dumps(content, default=_json_value).encode() + b"\n")


def _json_value(value: Any) -> str:
    if isinstance(value, (datetime.date, datetime.time)):  # a datetime is also a date
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    raise TypeError


def _unwritable(content: Mapping[str, Any]) -> str:
    for field, value in content.items():
        try:
            json.dumps(value, default=_json_value)
        except (TypeError, ValueError):
            return f"field {field!r}: a value that JSON cannot hold (such as bytes); write a .parquet file instead"
    return "a value that JSON cannot hold"


def _write_parquet(
    corpus: Corpus, rows: Sequence[int] | np.ndarray, columns: Sequence[Mapping[str, Any]], temporary: Path
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Two passes, because the type of a column depends on all rows.
        source_schema = corpus.schema
        schema = pa.schema([])
        for chunk in _chunks(_rows_with_column(corpus, rows, columns)):
            schema = _widened(schema, chunk, source_schema)
        with pq.ParquetWriter(temporary, schema) as writer:
            for chunk in _chunks(_rows_with_column(corpus, rows, columns)):
                writer.write_table(pa.Table.from_pylist([content for _, content in chunk], schema=schema))
    except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
        reason = str(error).partition("\n")[0]
        raise CorpusError(
            f"{corpus.name}: the chosen rows do not fit into Parquet columns: {reason}; write a .jsonl file instead"
        ) from None


def _widened(schema: pa.Schema, chunk: list[tuple[int, dict[str, Any]]], source_schema: pa.Schema | None) -> pa.Schema:
    """Return `schema` with the columns of a chunk. A column has the type of the source, or one for all values."""
    import pyarrow as pa

    names = dict.fromkeys(name for _, content in chunk for name in content)
    fields = []
    for name in names:
        if source_schema is not None and name != FIELD:
            fields.append(source_schema.field(name))
            continue
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
