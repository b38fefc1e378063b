"""Reads the rows that :mod:`gdig.data.export` has written."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gdig.data.chat_turns import without_nulls
from gdig.data.export import as_table, ending_of
from gdig.data.turns import CONVERSATION_FIELDS
from gdig.errors import OutputError

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Read the rows of an output, in order.

    Raises:
        CorpusError: if the file cannot be read, or is no output.
    """
    if not path.is_file():
        raise OutputError(f"{path}: the file is gone; select again to write it anew")
    try:
        if ending_of(path) == ".parquet":
            import pyarrow.parquet as pq

            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(256):
                    yield from batch.to_pylist()
            return
        with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb") as lines:
            for line in lines:
                yield json.loads(line)
    except (OSError, EOFError, ValueError, RecursionError, zlib.error) as error:  # Arrow's errors are among them
        reason = str(error).partition("\n")[0]
        raise OutputError(f"{path}: cannot be read: {reason}; select again to write it anew") from None


def read_table(path: Path) -> pa.Table:
    """Read an output as an Arrow table. A Parquet file keeps its types.

    Raises:
        CorpusError: if the file cannot be read, or if rows of JSON do not fit into columns.
    """
    if ending_of(path) != ".parquet" or not path.is_file():
        return as_table(str(path), list(read_rows(path)))
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).partition("\n")[0]
        raise OutputError(f"{path}: cannot be read: {reason}; select again to write it anew") from None


_TURNS_AND_TOOLS = (*CONVERSATION_FIELDS, "prompt", "completion", "tools")


def as_dataset(table: pa.Table) -> datasets.Dataset:
    """Return a table as a data set. Its turns and tools lack the keys with null, as when they were measured.

    Columns of structs give each turn, and the arguments of each call, the keys of all others.
    """
    import datasets

    names = [name for name in _TURNS_AND_TOOLS if name in table.column_names and _is_of_objects(table[name].type, name)]
    dataset = datasets.Dataset(table)
    if not names:
        return dataset
    if not hasattr(datasets, "Json"):  # datasets before 4.7
        return dataset.with_transform(partial(_without_nulls_in, names))
    columns = _without_nulls_in(names, table.to_pydict())
    features = {**dataset.features, **{name: datasets.List(datasets.Json()) for name in names}}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def _is_of_objects(kind: pa.DataType, name: str) -> bool:
    """Whether a column holds lists of objects that may have keys of their own."""
    import pyarrow as pa

    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return is_list and pa.types.is_struct(kind.value_type) and (name == "tools" or kind.value_type.num_fields > 2)


def _without_nulls_in(names: list[str], columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Return columns, those of the `names` without keys whose value is null."""
    return {
        name: [without_nulls(value) for value in values] if name in names else values
        for name, values in columns.items()
    }
