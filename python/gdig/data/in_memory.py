"""Rows that a program holds, as files: a Dataset, a DataFrame or another table, an iterable of dicts.

The rows are written once into the cache of input files, under a name of their content. A run then reads them as it
reads any file, also when it goes on, and in several processes.
"""

from __future__ import annotations

import datetime
import decimal
import json
import os
import re
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gdig.data.cache import default_cache, keyed_folder
from gdig.data.fingerprint import hash_content
from gdig.errors import ConfigError, CorpusError

if TYPE_CHECKING:
    import pyarrow as pa

_VERSION = 1
_BATCH_ROWS = 1024
_INDEX = re.compile(r"__index_level_\d+__")


def with_files(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options whose `candidates` and `seeds` are names of files. Rows in memory become files of the cache.

    Raises:
        ConfigError: if the value is no table and no iterable of dicts.
        CorpusError: naming the row, if a dict holds a value that JSON cannot hold.
    """
    names = [name for name in ("candidates", "seeds") if options.get(name) is not None]
    return {**options, **{name: _files_of(options[name], name) for name in names}}


def _files_of(value: Any, name: str) -> Any:
    if isinstance(value, (str, os.PathLike)):
        return value
    if isinstance(value, (list, tuple)) and not any(isinstance(item, Mapping) for item in value):
        return tuple(item if isinstance(item, (str, os.PathLike)) else str(_file_of(item, name)) for item in value)
    return (str(_file_of(value, name)),)


def _file_of(rows: Any, name: str) -> Path:
    datasets = sys.modules.get("datasets")
    if datasets is not None and isinstance(rows, (datasets.DatasetDict, datasets.IterableDatasetDict)):
        splits = ", ".join(map(str, rows))
        raise ConfigError(
            f"{name}: got the splits {splits}, expected one of them: {name}=dataset[{next(iter(rows))!r}]"
        )
    if datasets is not None and isinstance(rows, datasets.Dataset):
        plain = rows.with_format("arrow")
        batches = (plain[start : start + _BATCH_ROWS] for start in range(0, len(rows), _BATCH_ROWS))
        return _written(f"{name}.arrow", lambda path: _write_arrow(batches, rows.features.arrow_schema, path))
    if (table := _as_table(rows, name)) is not None:
        batches = (table.slice(start, _BATCH_ROWS) for start in range(0, len(table), _BATCH_ROWS))
        return _written(f"{name}.arrow", lambda path: _write_arrow(batches, table.schema, path))
    if isinstance(rows, (Mapping, bytes)) or not isinstance(rows, Iterable):
        raise ConfigError(
            f"{name}: expected names of files, a Dataset, a DataFrame or an iterable of dicts, got"
            f" {type(rows).__name__}"
        )
    return _written(f"{name}.jsonl", lambda path: _write_json(rows, name, path))


def _as_table(rows: Any, name: str) -> pa.Table | None:
    """Return the table of a DataFrame (pandas, polars), of pyarrow, or of anything with Arrow's stream interface.

    Raises:
        CorpusError: if a column of a DataFrame holds values of several kinds.
    """
    is_pandas = type(rows).__module__.startswith("pandas.") and hasattr(rows, "columns")
    if not is_pandas and not hasattr(rows, "__arrow_c_stream__"):
        return None
    import pyarrow as pa

    try:
        # pandas before 2.2 has no stream interface.
        table = pa.Table.from_pandas(rows) if is_pandas else pa.RecordBatchReader.from_stream(rows).read_all()
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise CorpusError(
            f"{name}: the {type(rows).__name__} cannot be read as columns: {str(error).partition(chr(10))[0]}; give"
            " each column values of one kind, or give a list of dicts"
        ) from None
    # The numbers of the rows that a filter has left, which pandas keeps as an index without a name.
    return table.drop_columns([column for column in table.column_names if _INDEX.fullmatch(column)])


def _written(name: str, write: Callable[[Path], None]) -> Path:
    """Write a file into the cache, under a name of its content."""
    cache = default_cache()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".memory.", dir=cache))
    except OSError as error:
        raise CorpusError(f"{cache}: rows in memory cannot be written to the cache: {error}") from None
    try:
        write(folder / name)
        # The same rows may be pool and seeds: two files.
        key = f"memory-{_VERSION}-{name.replace('.', '-')}-{hash_content(folder / name)}"

        def move(final: Path) -> None:
            (folder / name).rename(final / name)

        return keyed_folder(cache, key, move) / name
    except OSError as error:
        raise CorpusError(f"{cache}: rows in memory cannot be written to the cache: {error}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_arrow(tables: Iterable[pa.Table], schema: pa.Schema, path: Path) -> None:
    import pyarrow as pa

    with pa.OSFile(str(path), "wb") as out, pa.ipc.new_stream(out, schema) as writer:
        for table in tables:
            # One batch of copies: the bytes do not depend on how the rows lie in memory.
            writer.write_table(table.combine_chunks())


def _write_json(rows: Iterable[Any], name: str, path: Path) -> None:
    with path.open("w", encoding="ascii") as file:
        for number, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise ConfigError(f"{name}: row {number}: expected a dict, got {type(row).__name__}")
            try:
                file.write(json.dumps(dict(row), default=_json_value) + "\n")
            except (TypeError, ValueError) as error:
                raise CorpusError(
                    f"{name}: row {number}: a value that JSON cannot hold: {error}; give a Dataset or a file instead"
                ) from None


def _json_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (datetime.date, datetime.time)):  # a datetime is also a date
        return value.isoformat()
    if isinstance(value, (decimal.Decimal, uuid.UUID)):
        return str(value)
    if hasattr(value, "tolist"):  # arrays and numbers of NumPy
        return value.tolist()
    raise TypeError(f"a {type(value).__name__}")
