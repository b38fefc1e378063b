"""The check of an output before anything is computed: whether it has a place for what the pool holds."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gdig.data.export import FIELD, Convert, ending_of, json_line, parquet_errors, rows_to_write, schema_of
from gdig.errors import OutputError

if TYPE_CHECKING:
    import pyarrow as pa

    from gdig.data.corpus import Corpus

_HEAD_ROWS = 32
"""Rows of a file that are looked at. As many tell its row format."""
_CHUNK = 1024


def require_writable(path: Path) -> None:
    """Raise, before anything is computed, if no file of this name can be written. Nothing is made.

    Raises:
        OutputError: as the writing would raise it.
    """
    try:
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        number = errno.EISDIR if path.is_dir() else 0 if folder.is_dir() else errno.ENOTDIR
    except OSError as error:  # such as of a name that is too long
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from None
    if not number and not os.access(folder, os.W_OK | os.X_OK):
        number = errno.EACCES
    if number:
        raise OutputError(f"{path}: cannot be written: {os.strerror(number)}")


def check_output(
    corpus: Corpus,
    path: str | os.PathLike[str],
    convert: Convert | None = None,
    is_usable: Callable[[int], bool] | None = None,
) -> None:
    """Raise what :func:`gdig.data.export.export` would raise for rows at the beginning of each file.

    For .jsonl, all rows of the columns whose type may hold bytes are looked at too.

    Args:
        corpus: where the rows are.
        path: as for `export`.
        convert: as for `export`. One row of each file is converted.
        is_usable: whether a row may be chosen, by its number. Only rows to convert are asked for. None: all may.

    Raises:
        CorpusError: naming row and field, if the format cannot hold a value.
    """
    heads: list[Sequence[int]] = [range(start, min(end, start + _HEAD_ROWS)) for start, end in _files(corpus)]
    if convert is not None:
        heads = [list(itertools.islice(filter(is_usable or (lambda row: True), head), 1)) for head in heads]
    rows = rows_to_write(corpus, list(itertools.chain(*heads)), None, convert)
    if ending_of(path) == ".parquet":
        if convert is not None or corpus.schema is None:
            with parquet_errors(corpus.name):
                schema_of(rows)
        return
    for row, content in rows:
        json_line(corpus, row, content)
    if convert is None:
        _check_bytes(corpus)


def _files(corpus: Corpus) -> Iterator[tuple[int, int]]:
    """Yield the first row of each file, and the row after its last."""
    return ((corpus.first_row(file), end) for file, end in enumerate(corpus.ends))


def _check_bytes(corpus: Corpus) -> None:
    """Raise for the first value in columns of bytes: those of a type that JSON has no place for, unless it is null."""
    for file, (first, end) in enumerate(_files(corpus)):
        schema = corpus.schema_of(file)
        fields = [] if schema is None else [field for field in schema if field.name != FIELD]
        names = frozenset(field.name for field in fields if _holds_bytes(field.type))
        for start in range(first, end, _CHUNK) if names else ():
            contents = corpus.rows(start, min(end, start + _CHUNK), [names] * corpus.n_files)
            for row, content in enumerate(contents, start):
                json_line(corpus, row, content)


def _holds_bytes(kind: pa.DataType) -> bool:
    """Whether values of a type, or values inside them, may be bytes or a length of time."""
    import pyarrow as pa

    types = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return kind.extension_name != "arrow.uuid" and _holds_bytes(kind.storage_type)
    if types.is_struct(kind) or types.is_union(kind):
        return any(_holds_bytes(kind.field(i).type) for i in range(kind.num_fields))
    if types.is_map(kind):
        return _holds_bytes(kind.key_type) or _holds_bytes(kind.item_type)
    if types.is_nested(kind) or types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return _holds_bytes(kind.value_type)
    is_bytes = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view)
    return any(is_kind(kind) for is_kind in (*is_bytes, types.is_duration, types.is_interval))
