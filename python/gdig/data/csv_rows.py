"""Rows of a CSV or TSV file. Every value is text: a reader that guesses types turns 007 into 7."""

from __future__ import annotations

import csv
import itertools
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TextIO

import numpy as np

from gdig.data.arrow_rows import ArrowRows, read_table
from gdig.data.cache import cached_folder
from gdig.data.json_list import not_utf8
from gdig.errors import BadRowError, CorpusError

_VERSION = 1
_BATCH_ROWS = 1024
_LONGEST_VALUE = 1 << 30


def open_csv(path: Path, shown: Path, cache: Path) -> ArrowRows:
    """Open a CSV or TSV file with a header. It is converted once to Arrow in the cache.

    Values may be enclosed in double quotes. A .tsv file that has no sense so has double quotes as a part of its values.
    A .csv file whose header has no comma may be divided by semicolons or tabs.

    Args:
        path: the file.
        shown: its name for messages.
        cache: the folder of the cache.

    Raises:
        CorpusError: naming the line, if a row has more or fewer values than the header, a quote is wrong, or the file
            is not UTF-8.
    """
    tabs = path.suffix.lower() == ".tsv"
    kind = f"csv-{_VERSION}{'-tabs' if tabs else ''}"
    folder = cached_folder(cache, kind, path, lambda folder: _convert(path, shown, tabs, folder))
    table = read_table(folder / "data.arrow")
    if len(table) == 0:
        raise CorpusError(f"{shown}: the file holds a header alone, expected at least one row")
    lines = np.memmap(folder / "lines", dtype="<i8", mode="r")
    return ArrowRows(shown, table.schema, len(table), table.column, lines=lines)


def _convert(path: Path, shown: Path, tabs: bool, folder: Path) -> None:
    try:
        _write(path, shown, tabs, folder)
    except CorpusError:
        if not tabs:
            raise
        # Most programs that write tabs quote no value, and leave double quotes in it as they are.
        try:
            _write(path, shown, tabs, folder, quoting=csv.QUOTE_NONE)
        except CorpusError:
            pass
        else:
            return
        raise


def _write(path: Path, shown: Path, tabs: bool, folder: Path, quoting: Literal[0, 3] = csv.QUOTE_MINIMAL) -> None:
    import pyarrow as pa

    with path.open(encoding="utf-8-sig", newline="") as file:
        records = _records(file, shown, tabs, quoting)
        _, names = next(records, (0, []))
        if not names:
            raise CorpusError(f"{shown}: the file holds no rows, expected a header and at least one row")
        schema = pa.schema([(name, pa.large_string()) for name in names])
        with (
            pa.OSFile(str(folder / "data.arrow"), "wb") as out,
            pa.ipc.new_file(out, schema) as writer,
            (folder / "lines").open("wb") as lines_file,
        ):
            while rows := list(itertools.islice(records, _BATCH_ROWS)):
                for line, values in rows:
                    if len(values) != len(names):
                        raise BadRowError(
                            f"{shown}, line {line}: expected {len(names)} values, as in the header"
                            f" ({', '.join(names)}), got {len(values)}; enclose a value that holds the delimiter in"
                            " double quotes"
                        )
                columns = zip(*(values for _, values in rows), strict=True)
                arrays = [pa.array(column, type=pa.large_string()) for column in columns]
                writer.write_batch(pa.record_batch(arrays, schema=schema))
                lines = array("q", (line for line, _ in rows))
                lines.tofile(lines_file)


def _records(file: TextIO, shown: Path, tabs: bool, quoting: Literal[0, 3]) -> Iterator[tuple[int, list[str]]]:
    """Yield the line on which each record begins, and its values. Blank lines are left out."""
    limit = csv.field_size_limit(_LONGEST_VALUE)
    line = 1
    try:
        first = file.readline()
        delimiter = "\t" if tabs else next((d for d in (",", ";", "\t") if d in first), ",")
        reader = csv.reader(itertools.chain((first,), file), delimiter=delimiter, quoting=quoting, strict=True)
        for values in reader:
            if values:
                yield line, values
            line = reader.line_num + 1
    except csv.Error as error:
        raise BadRowError(f"{shown}, line {line}: not valid CSV: {error}; write a double quote as two") from None
    except UnicodeDecodeError as error:
        raise BadRowError(f"{shown}, line {line} or later: {not_utf8(error)}") from None
    finally:
        csv.field_size_limit(limit)
