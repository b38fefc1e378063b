"""Reads the rows that :mod:`gdig.data.export` has written."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gdig.data.chat_turns import without_nulls
from gdig.data.export import as_table, ending_of
from gdig.data.turns import CONVERSATION_FIELDS
from gdig.errors import CorpusError

if TYPE_CHECKING:
    import pyarrow as pa


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Read the rows of an output, in order.

    Raises:
        CorpusError: if the file cannot be read, or is no output.
    """
    if not path.is_file():
        raise CorpusError(f"{path}: the file is gone; select again to write it anew")
    try:
        if ending_of(path) == ".parquet":
            import pyarrow.parquet as pq

            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(256):
                    yield from batch.to_pylist()
            return
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
            for line in lines:
                yield json.loads(line)
    except (OSError, EOFError, ValueError) as error:  # Arrow's errors are among them
        reason = str(error).partition("\n")[0]
        raise CorpusError(f"{path}: cannot be read: {reason}; select again to write it anew") from None


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
        raise CorpusError(f"{path}: cannot be read: {reason}; select again to write it anew") from None


_TURNS_AND_TOOLS = (*CONVERSATION_FIELDS, "prompt", "completion", "tools")


def may_have_added_nulls(schema: pa.Schema) -> bool:
    """Whether turns or tools have keys that only some of them have. Columns give the others null for these keys."""
    import pyarrow as pa

    for name in _TURNS_AND_TOOLS:
        kind = schema.field(name).type if name in schema.names else None
        is_list = kind is not None and (pa.types.is_list(kind) or pa.types.is_large_list(kind))
        if is_list and pa.types.is_struct(kind.value_type) and (name == "tools" or kind.value_type.num_fields > 2):
            return True
    return False


def without_added_nulls(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Return a batch of rows whose turns and tools lack the keys with null, as they were when they were measured."""
    return {
        name: [without_nulls(value) for value in values] if name in _TURNS_AND_TOOLS else values
        for name, values in batch.items()
    }
