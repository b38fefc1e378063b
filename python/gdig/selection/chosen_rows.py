"""The rows of a selection, read again from its file."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gdig.data.export import FIELD, ending_of
from gdig.errors import CorpusError

_LONGEST_LINE = 1 << 28
"""The longest line of a selection, in bytes. A compressed file of some megabytes can hold one that fills the memory."""
_BATCH = 1024


@dataclass(frozen=True)
class ChosenRows:
    """The chosen rows, best first.

    columns: of each row, what the output shows of it under "gdig".
    """

    columns: list[dict[str, Any]]

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """Rows of the pool, int64 [n]."""
        return np.array([column["row"] for column in self.columns], dtype=np.int64)

    @cached_property
    def place(self) -> dict[int, int]:
        """The place of each row in the selection, from 1."""
        return {row: place for place, row in enumerate(self.rows.tolist(), 1)}


def read_chosen_rows(path: Path, rows: int) -> ChosenRows:
    """Read the file of a selection.

    Args:
        path: a file that gdig select has written.
        rows: of the pool.

    Raises:
        CorpusError: if the file cannot be read, or if a line of it has no row of the pool.
    """
    if not path.is_file():  # opening a pipe would wait for its writer
        raise CorpusError(f"{path}: expected the file of a selection, found none")
    columns = []
    try:
        for number, content in enumerate(_contents(path), 1):
            column = content.get(FIELD) if isinstance(content, dict) else None
            row = column.get("row") if isinstance(column, dict) else None
            if column is None or not isinstance(row, int) or isinstance(row, bool) or not 0 <= row < rows:
                raise CorpusError(
                    f"{path}, row {number}: field {FIELD!r}: expected the number of a row of this pool of {rows}, "
                    f"got {row!r:.200}; give the file that gdig select has written from this run"
                )
            if number > rows:
                raise CorpusError(f"{path}: expected at most the {rows} rows of this pool, got more")
            columns.append(column)
    except (OSError, EOFError, ValueError, RecursionError, zlib.error) as error:  # pyarrow's errors are among these
        raise CorpusError(f"{path}: expected the file of a selection, but it cannot be read: {error}") from None
    return ChosenRows(columns)


def _contents(path: Path) -> Iterator[Any]:
    """Yield the rows of the file, one at a time: a compressed file may hold more than the memory."""
    if ending_of(path) == ".parquet":
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH, columns=[FIELD]):
                yield from batch.to_pylist()
        return
    with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb") as lines:
        while line := lines.readline(_LONGEST_LINE + 1):
            if len(line) > _LONGEST_LINE:
                raise ValueError(f"a line of more than {_LONGEST_LINE:,} bytes")
            if line.strip():
                yield json.loads(line)
