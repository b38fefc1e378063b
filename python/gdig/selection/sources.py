"""Which source each row of the pool is of: its file, or what a field of the row says."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gdig.data.corpus import Corpus
from gdig.errors import ConfigError, CorpusError, StoreError
from gdig.resampling import sample_rows
from gdig.run.layout import RunLayout
from gdig.run.origin import field_key
from gdig.run.session import Workspace
from gdig.store.sketches import SketchStore
from gdig.store.tensor_file import CheckedFile, damage_of

_ROWS = 4096
"""Rows that are read at once."""
MOST_SOURCES = 1024
"""Sources of a pool. The method chooses once for each, and the summary lists them."""


@dataclass(frozen=True)
class Sources:
    """The source of each row, by its number among `names`.

    names: of the sources. ends: the row after the last row of each; used where the sources are the files. of_row:
    int32 [N], of each row; None where the sources are the files.
    """

    names: tuple[str, ...] = ()
    ends: tuple[int, ...] = ()
    of_row: NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def of(self, rows: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the source of some rows, int64 [n]."""
        if self.of_row is None:
            return np.searchsorted(np.array(self.ends), rows, side="right").astype(np.int64)
        return self.of_row[rows].astype(np.int64)

    def has(self, source: int, n_rows: int) -> NDArray[np.bool_]:
        """Return which of the pool's rows are of one source, bool [n_rows]."""
        if self.of_row is not None:
            return self.of_row == source
        is_there = np.zeros(n_rows, np.bool_)
        is_there[self.ends[source - 1] if source else 0 : self.ends[source]] = True
        return is_there

    def counts(self, rows: NDArray[np.integer]) -> dict[str, int]:
        """Return how many of some rows each source has; sources without a row are left out."""
        counts = np.bincount(self.of(rows), minlength=len(self.names)).tolist()
        return {name: count for name, count in zip(self.names, counts, strict=True) if count}


def read_sources(work: Workspace, layout: RunLayout, store: SketchStore) -> Sources:
    """Return the sources of the pool: the files, or those of the option `source_field` (`ensure_sources` before).

    Raises:
        StoreError: when a file of the sources is missing or damaged.
        ConfigError: when the pool has more than 1,024 sources, or no row has the field.
    """
    corpus, name = work.candidates, work.config.source_field
    files = file_names(corpus)
    if name is None:
        return Sources(files, corpus.ends)
    numbers: dict[str, int] = {}
    of_row = np.zeros(len(store), np.int32)
    n_named = 0
    for shard in store.shards:
        start, stop = store.shard_range(shard)
        own, codes = _read(_file(layout, store, shard, name), stop - start)
        # A row without the field is of its file.
        is_named = codes >= 0
        n_named += int(is_named.sum())
        of_file = np.searchsorted(np.array(corpus.ends), np.arange(start, stop), side="right")
        for file in np.unique(of_file[~is_named]).tolist():
            codes[~is_named & (of_file == file)] = len(own)
            own = [*own, files[min(file, len(files) - 1)]]
        to_pool = np.array([numbers.setdefault(text, len(numbers)) for text in own], np.int32)
        if len(numbers) > MOST_SOURCES:
            raise _too_many(name)
        of_row[start:stop] = to_pool[codes]
    if not n_named:
        raise _no_field(name)
    return Sources(tuple(numbers), of_row=of_row)


def check_sources(work: Workspace, most: int | None = None) -> dict[str, int] | None:
    """Read the sources of the pool before any pass, and return the rows of each; None where some were read alone.

    Args:
        work: the pool, and the option `source_field`.
        most: of the rows whose field is read, drawn by a hash of random_seed; None for all.

    Raises:
        CorpusError: naming a row whose field holds neither text nor a whole number.
        ConfigError: when the pool has more than 1,024 sources, or no row has the field.
    """
    corpus, name = work.candidates, work.config.source_field
    files, ends = file_names(corpus), np.array(corpus.ends)
    counts: dict[str, int] = {}
    if name is None:
        return dict(zip(files, np.diff(ends, prepend=0).tolist(), strict=True))
    n, columns, has_field = len(corpus), [frozenset({name})] * corpus.n_files, False
    rows = np.arange(n) if most is None or most >= n else sample_rows(n, most, work.config.random_seed)
    for start in range(0, len(rows), _ROWS):
        some = rows[start : start + _ROWS].tolist()
        contents = corpus.rows(some[0], some[-1] + 1, columns) if len(rows) == n else corpus.take(some)
        of_file = np.searchsorted(ends, some, side="right").tolist()
        for row, content, file in zip(some, contents, of_file, strict=True):
            (value,) = _values(corpus, [content], row, name)
            has_field |= value is not None
            own = files[file] if value is None else value
            counts[own] = counts.get(own, 0) + 1
            if len(counts) > MOST_SOURCES:
                raise _too_many(name)
    if not has_field and len(rows) == n:
        raise _no_field(name)
    if not has_field:  # the rows that have it may not be among those drawn
        return check_sources(work)
    return counts if len(rows) == n else None


def _too_many(name: str) -> ConfigError:
    return ConfigError(
        f"source_field={name!r}: expected at most {MOST_SOURCES:,} sources, found more; name a field with fewer values"
    )


def _no_field(name: str) -> ConfigError:
    return ConfigError(f"source_field={name!r}: no row of the pool has this field; name a field that rows have")


def ensure_sources(work: Workspace, store: SketchStore) -> None:
    """Write the files of the sources that the run lacks: the field `source_field` of each row, shard by shard.

    Raises:
        CorpusError: naming a row whose field holds neither text nor a whole number.
    """
    name = work.config.source_field
    if name is None:
        return
    if work.run.sweep.source_field != name:
        work.run.require_writable("sweep")
        work.run.update("sweep", source_field=name)
    files = [_file(work.layout, store, shard, name) for shard in store.shards]
    damages = damage_of(files)
    for damage in damages:
        if damage is not None and damage.state == "damaged":
            work.progress.warn(f"{damage.what}; its rows are read again")
    missing = [place for place, damage in enumerate(damages) if damage is not None]
    spans = [store.shard_range(store.shards[place]) for place in missing]
    n_rows = sum(stop - start for start, stop in spans)
    if not missing:
        return
    work.require_all_files(spans[-1][1])
    columns = [frozenset({name})] * work.candidates.n_files
    with work.progress.stage("sources", len(store), done=len(store) - n_rows) as bar:
        for place, (start, stop) in zip(missing, spans, strict=True):
            rows = work.candidates.rows(start, stop, columns)
            _write(files[place], list(_values(work.candidates, rows, start, name)))
            bar.advance(stop - start)


def file_names(corpus: Corpus) -> tuple[str, ...]:
    """Return the names of the pool's files, with as much of their folders as tells them apart."""
    paths = corpus.paths
    for depth in range(1, max(len(Path(path).parts) for path in paths) + 1):
        names = tuple("/".join(Path(path).parts[-depth:]) for path in paths)
        if len(set(names)) == len(names):
            return names
    return tuple(map(str, paths))


def _file(layout: RunLayout, store: SketchStore, shard: int, name: str) -> CheckedFile:
    return layout.checked(layout.sources_of(shard), f"{store.origin_of(shard)} {field_key(name)}")


def _values(corpus: Corpus, rows: Sequence[object], start: int, name: str) -> Iterator[str | None]:
    for place, row in enumerate(rows):
        value = row.get(name) if isinstance(row, dict) else None
        if value is None or value == "":
            yield None
        elif isinstance(value, bool) or not isinstance(value, (str, int)):
            where = corpus.where(start + place)
            raise CorpusError(f"{where}: {name}: expected the row's source, a text or a whole number, got {value!r}")
        else:
            yield str(value)


def _write(file: CheckedFile, values: Sequence[str | None]) -> None:
    numbers: dict[str, int] = {}
    codes = [-1 if value is None else numbers.setdefault(value, len(numbers)) for value in values]
    text = json.dumps(list(numbers)).encode()
    file.write({"names": np.frombuffer(text, np.uint8), "sources": np.array(codes, np.int32)})


def _read(file: CheckedFile, n_rows: int) -> tuple[list[str], NDArray[np.int32]]:
    tensors, _ = file.read()
    tensors.shaped({"rows": n_rows}, names="uint8 bytes", sources="int32 rows")
    codes = np.array(tensors["sources"])
    try:
        names = json.loads(tensors["names"].tobytes())
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{file.path}: names: expected a JSON list of texts: {error}") from None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise StoreError(f"{file.path}: names: expected a JSON list of texts, got another value")
    if n_rows and not -1 <= codes.min() <= codes.max() < len(names):
        raise StoreError(f"{file.path}: sources: expected numbers of {len(names)} sources, got others")
    return names, codes
