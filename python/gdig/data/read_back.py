"""Reads the rows that :mod:`gdig.data.export` has written."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gdig.data.export import as_table, ending_of
from gdig.errors import OutputError

if TYPE_CHECKING:
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
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
            for line in lines:
                yield json.loads(line)
    except (OSError, EOFError, ValueError) as error:  # Arrow's errors are among them
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
