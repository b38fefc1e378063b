"""Rows of the pool that share words or meaning with an evaluation set, which are never chosen.

A row is excluded for any of these (`gdig._native.SharedWords` finds the first three):

- It has all words of an entry of the set.
- It has 13 words of an entry in a row.
- A text of 8 to 12 words of the row or the entry is inside a text of the other.
- The cosine of its hidden-state sketch with an entry's exceeds `exclude_similarity`.

Words that many rows have do not count (:mod:`gdig.selection.shared_runs`). What each shard shares with the set is in a
file. So an interrupted pass goes on, and another threshold or more rows need no other pass.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gdig import _native
from gdig.data.corpus import Corpus, open_corpus
from gdig.data.fingerprint import fingerprint_paths
from gdig.data.texts import row_texts
from gdig.data.tokens import Example
from gdig.errors import CorpusError, GdigError, StoreError
from gdig.nouns import counted
from gdig.passes.influence_pass import make_forward_pass
from gdig.run.layout import RunLayout
from gdig.run.origin import rows_origin, sweep_origin
from gdig.run.record import RunRecord
from gdig.run.session import Workspace
from gdig.selection.hidden_mean import ensure_hidden_mean, read_hidden_mean
from gdig.selection.shared_runs import RunCounts, SharedRuns, common_above
from gdig.selection.similar import SimilarityFeatures, hold
from gdig.store.atomic import replacing
from gdig.store.sketches import SketchStore
from gdig.store.tensor_file import CheckedFile, damage_of

RUN = 13
"""Words of a run; fewer are a whole text."""
_MOST_SPAN = 1 << 28
"""Words of the texts of a shard that have shared runs; they take 12 bytes each."""
_ROWS = 4096
"""Rows whose words are compared at once."""
_MOST_NEAR = 0.1
"""Share of the valid rows that hidden states alone may exclude without a warning. Of rows of the same tasks and
templates as the set, 0 to 4 in 100 are above the default cosine (docs/redundancy.md)."""


@dataclass(frozen=True)
class ExcludedRow:
    """A row that is not chosen. entry: of the evaluation set. reason: equal, words, text or cosine. words: which of the
    row's words both have: its text, the first word, and how many; None for a cosine and for all words."""

    row: int
    entry: int
    reason: str
    words: tuple[int, int, int] | None
    cosine: float | None


def ensure_excluded(work: Workspace, store: SketchStore) -> None:
    """Compare the pool with the evaluation set of the option `exclude`, and write what the run lacks of it.

    One pass over the texts of the pool and its hidden-state sketches. The hidden states of the set take a forward pass
    of the model, unless exclude_similarity is 1.

    Raises:
        CorpusError: naming a row of the set that the model cannot read.
    """
    corpus, run = open_exclude(work), work.run
    key = exclude_key(work, corpus)
    if run.sweep.exclude_key != key:
        run.require_writable("sweep")
        run.update("sweep", exclude_key=key)
    files = [_file(work.layout, run.record, store, shard) for shard in store.shards]
    damages = damage_of(files)
    for damage in damages:
        if damage is not None and damage.state == "damaged":
            work.progress.warn(f"{damage.what}; its rows are compared again")
    missing = [place for place, damage in enumerate(damages) if damage is not None]
    if not missing:
        return
    work.require_all_files(store.shard_range(store.shards[missing[-1]])[1])
    words = words_of(corpus)
    if words.common:
        work.progress.say(
            f"exclude: {words.common:,} runs of words are in more than 10 entries of the evaluation set, as those of a "
            "template; they exclude no row"
        )
    if words.empty:
        work.progress.warn(f"exclude: {counted(words.empty, 'entry', 'entries')} of the evaluation set without words")
    held, features = _entries(work, store, corpus)
    rows = sum(stop - start for start, stop in (store.shard_range(store.shards[place]) for place in missing))
    threads = work.config.threads or 0
    # Rows that this start does not see are in the files too: the file of a shard is the same for every start.
    whole = SketchStore.open(work.layout.sweep, rows_origin(work.run.record))
    with work.progress.stage("exclude", len(store), done=len(store) - rows) as bar:
        for place in missing:
            shard = store.shards[place]
            start, stop = store.shard_range(shard)
            equals, runs = [], []
            for first in range(start, stop, _ROWS):
                texts = [row_texts(row) for row in work.candidates.rows(first, min(stop, first + _ROWS))]
                (rows_equal, entries_equal), of_rows = words.find(texts, n_threads=threads)
                equals.append(np.stack([rows_equal + np.int32(first - start), entries_equal], 1))
                runs.append((first - start, of_rows))
                bar.advance(len(texts))
            shared = SharedRuns.join(runs)
            valid = whole.tensor(shard, "valid") != 0
            tensors: dict[str, NDArray[Any]] = {
                "equal": np.concatenate(equals),
                **shared.some(valid[shared.row]).without_settled().tensors(),
            }
            if held is not None and features is not None:
                nearest, cosines = held.nearest(features.of_shard(shard), -1.0, n_threads=threads)
                tensors |= {"nearest": nearest.astype(np.int32), "cosine": cosines}
            files[place].write(tensors)


@dataclass(frozen=True)
class Excluded:
    """What an evaluation set excludes. rows: ascending. common: runs of words of the set that more than `common_above`
    rows of the pool have, and that exclude none for this reason."""

    rows: list[ExcludedRow]
    common: int = 0
    common_above: int = 0

    @property
    def near(self) -> int:
        """Rows that the cosine alone excludes."""
        return sum(row.reason == "cosine" for row in self.rows)

    def summary(self, path: Path) -> list[str]:
        """Return what was left out and why, for people. path: of the list of excluded rows."""
        lines = [f"excluded rows: {path}"]
        if self.near:
            lines.append(
                f"{self.near:,} of {len(self.rows):,} excluded rows share no words: their hidden states are near"
            )
        if self.common:
            lines.append(
                f"{self.common:,} runs of words of the evaluation set are in more than {self.common_above} "
                "rows of the pool, as those of a template; they exclude no row"
            )
        return lines

    def warnings(self, valid: int, most: float) -> list[str]:
        """Warn where the cosine excludes so many of the `valid` rows that the model hardly tells rows apart.

        most: the option exclude_similarity.
        """
        if self.near <= _MOST_NEAR * valid:
            return []
        return [
            f"exclude: {self.near:,} of {valid:,} rows share no words with the evaluation set, but their hidden states "
            f"have a cosine above {most:g} with it; expected at most 1 in {round(1 / _MOST_NEAR)}, so the model hardly "
            "tells such rows apart; look at excluded.jsonl, and raise --exclude-similarity (1 compares words alone)"
        ]


def read_excluded(layout: RunLayout, record: RunRecord, store: SketchStore, most: float) -> Excluded:
    """Read which valid rows of a sweep are excluded (`ensure_excluded` before). Two passes over the files.

    Args:
        layout: of the run.
        record: of the run.
        store: the sweep.
        most: the option exclude_similarity.

    Raises:
        StoreError: when a file is missing or damaged.
    """
    above = common_above(sum(int((store.tensor(shard, "valid") != 0).sum()) for shard in store.shards))
    counts = RunCounts(above)
    for shard in store.shards:
        counts.add(_read_shard(layout, record, store, shard).runs)
    excluded: list[ExcludedRow] = []
    for shard in store.shards:
        start, _ = store.shard_range(shard)
        shared = _read_shard(layout, record, store, shard)
        own = shared.runs.own(counts.common)
        rows, first = np.unique(own.row, return_index=True)
        run_of = dict(zip(rows.tolist(), first.tolist(), strict=True))
        equal_to = dict(shared.equal.tolist())
        near = np.zeros(0, np.int64) if most == 1 else np.flatnonzero(shared.cosine > np.float32(most))
        for at in sorted({*equal_to, *run_of, *near.tolist()}):
            if not shared.valid[at]:
                continue
            nearest, words = int(shared.nearest[at]), None
            if at in equal_to:
                entry, reason = equal_to[at], "equal"
            elif at in run_of:
                entry, text, start_word, n = (int(x[run_of[at]]) for x in (own.entry, own.text, own.start, own.words))
                reason, words = "words" if n == RUN else "text", (text, start_word, n)
            else:
                entry, reason = nearest, "cosine"
            cosine = float(shared.cosine[at]) if nearest == entry else None
            excluded.append(ExcludedRow(start + at, entry, reason, words, cosine))
    return Excluded(excluded, len(counts.common), above)


def write_excluded_list(path: Path, folder: Path, pool: Corpus, entries: Corpus, rows: list[ExcludedRow]) -> None:
    """Write the excluded rows for people, a JSON object a line: the row, the entry, and what they share.

    Args:
        path: the file.
        folder: of the run's files that the rows were read from, for errors.
        pool: the corpus of the rows.
        entries: the evaluation sets.
        rows: the excluded rows.

    Raises:
        StoreError: if the files of the run name an entry that the set has not.
    """
    for row in rows:
        if not 0 <= row.entry < len(entries):
            raise StoreError(
                f"{folder}: expected entries below {len(entries)}, got {row.entry}; remove the folder, and its rows "
                "are compared again"
            )
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", errors="backslashreplace") as lines:
        for start in range(0, len(rows), _ROWS):
            some = rows[start : start + _ROWS]
            for row, content in zip(some, pool.take([row.row for row in some]), strict=True):
                value = {
                    "row": row.row,
                    "where": pool.where(row.row),
                    "entry": entries.where(row.entry),
                    "reason": row.reason,
                    "words": _words(row, row_texts(content)),
                    "cosine": row.cosine,
                }
                lines.write(json.dumps(value, ensure_ascii=False) + "\n")


def _words(row: ExcludedRow, texts: list[str]) -> str:
    """The words that a row shares, as it has them; for a row that equals an entry, the start of its longest text."""
    if row.words is not None:
        text, start, n = row.words
        return _native.SharedWords.excerpt(texts[text], start, n) if text < len(texts) else ""
    return "" if row.reason == "cosine" else _native.SharedWords.excerpt(max(texts, key=len, default=""), 0, RUN)


@dataclass(frozen=True)
class _Shard:
    """The file of a shard of n rows. valid, nearest, cosine: [n]. equal: int32 [k, 2], rows and entries."""

    valid: NDArray[np.bool_]
    equal: NDArray[np.int32]
    runs: SharedRuns
    nearest: NDArray[np.int32]
    cosine: NDArray[np.float32]


def _read_shard(layout: RunLayout, record: RunRecord, store: SketchStore, shard: int) -> _Shard:
    start, stop = store.shard_range(shard)
    file = _file(layout, record, store, shard)
    n, (tensors, _) = stop - start, file.read()
    tensors.shaped(equal="int k 2")
    equal, valid = tensors["equal"], store.tensor(shard, "valid") != 0
    nearest, cosine = np.full(n, -1, np.int32), np.zeros(n, np.float32)
    if "cosine" in tensors:
        tensors.shaped({"n": n}, nearest="int n", cosine="float n")
        nearest, cosine = tensors["nearest"], np.where(tensors["nearest"] >= 0, tensors["cosine"], 0)
    runs = SharedRuns.read(tensors, n)
    if (span := runs.span()) > _MOST_SPAN:  # a forged place
        raise StoreError(f"{file.path}: start: expected places in texts of {_MOST_SPAN:,} words in all, got {span:,}")
    return _Shard(valid, equal[(equal[:, 0] >= 0) & (equal[:, 0] < n)], runs.some(valid[runs.row]), nearest, cosine)


def words_of(entries: Corpus) -> _native.SharedWords:
    """Return the runs of words of an evaluation set."""
    return _native.SharedWords([row_texts(row) for row in entries.rows(0, len(entries))])


def open_exclude(work: Workspace) -> Corpus:
    """Open the evaluation set."""
    return open_corpus(work.config.exclude, name="exclude")


def check_exclude(work: Workspace) -> None:
    """Open the evaluation set, and read its rows where their hidden states will be compared.

    Raises:
        CorpusError: when a file cannot be opened, or naming a row of the set that the model cannot read.
    """
    corpus = open_exclude(work)
    if work.config.exclude_similarity < 1 and not work.layout.evaluation_set.exists():
        _examples(work, corpus)


def _examples(work: Workspace, corpus: Corpus) -> list[Example]:
    try:
        return work.read_examples(corpus)
    except GdigError as error:
        raise CorpusError(
            f"{error}; the hidden states of the evaluation set need rows that the model can read; "
            "--exclude-similarity 1 compares words alone"
        ) from None


def exclude_key(work: Workspace, corpus: Corpus) -> str:
    """Return what the files depend on beside the pool: the set, and whether hidden states are compared."""
    prints = list(fingerprint_paths(corpus.files).values())
    text = json.dumps(["runs and short texts", prints, work.config.exclude_similarity < 1], sort_keys=True)
    return blake2b(text.encode(), digest_size=8).hexdigest()


def _file(layout: RunLayout, record: RunRecord, store: SketchStore, shard: int) -> CheckedFile:
    return layout.checked(layout.excluded_of(shard), f"{store.origin_of(shard)} {_recorded_key(record)}")


def _recorded_key(record: RunRecord) -> str:
    assert record.stages.sweep is not None
    return record.stages.sweep.exclude_key or ""


def _entries(
    work: Workspace, store: SketchStore, corpus: Corpus
) -> tuple[_native.HeldRows | None, SimilarityFeatures | None]:
    """The hidden-state sketches of the set, and the features of the pool; None where words alone are compared."""
    config, layout, record = work.config, work.layout, work.run.record
    if config.exclude_similarity == 1:
        return None, None
    file = layout.checked(layout.evaluation_set, f"{sweep_origin(record)} {_recorded_key(record)}")
    if file.damage() is not None:
        examples = _examples(work, corpus)
        rows = make_forward_pass(work.model, config, work.progress)
        if config.token_batch_size == "auto" and work.run.sweep.token_batch_size is not None:
            rows.batch_runner.token_batch_size = work.run.sweep.token_batch_size
        with work.progress.stage("exclude: entries", len(examples)) as bar:
            hidden = rows.compute(examples, bar).hidden
        file.write({"hidden": np.where(np.isfinite(hidden), hidden, 0).astype(np.float16)})
    ensure_hidden_mean(work, store)
    features = SimilarityFeatures(store, "hidden", read_hidden_mean(layout, record))
    return hold(features.centred(file.read()[0]["hidden"])), features
