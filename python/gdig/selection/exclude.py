"""Rows of the pool that share words or meaning with an evaluation set, which are never chosen.

A row is excluded if it has all words of an entry of the set, 13 words of one in a row, or a whole text of 8 to 12 words
of one (`gdig._native.SharedWords`); or if the cosine of its hidden-state sketch with an entry's exceeds
`exclude_similarity`. What each shard shares with the set is in a file, so that an interrupted pass goes on, and that
another threshold needs no other pass.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
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
from gdig.errors import CorpusError, GdigError, StoreError
from gdig.passes.influence_pass import make_forward_pass
from gdig.run.layout import RunLayout
from gdig.run.origin import sweep_origin
from gdig.run.record import RunRecord
from gdig.run.session import Workspace
from gdig.selection.hidden_mean import ensure_hidden_mean, read_hidden_mean
from gdig.selection.similar import SimilarityFeatures, hold
from gdig.store.atomic import replacing
from gdig.store.sketches import SketchStore
from gdig.store.tensor_file import CheckedFile, Named, damage_of

_ROWS = 4096
"""Rows whose words are compared at once."""


@dataclass(frozen=True)
class ExcludedRow:
    """A row that is not chosen. entry: of the evaluation set. reason: equal, words, text or cosine. words: that both
    have, as the row has them; empty for a cosine."""

    row: int
    entry: int
    reason: str
    words: str
    cosine: float | None


def ensure_excluded(work: Workspace, store: SketchStore) -> None:
    """Compare the pool with the evaluation set of the option `exclude`, and write what the run lacks of it.

    One pass over the texts of the pool and its hidden-state sketches. The hidden states of the set take a forward pass
    of the model, unless exclude_similarity is 1.

    Raises:
        CorpusError: naming a row of the set that the model cannot read.
    """
    corpus, run = open_exclude(work), work.run
    key = _key(work, corpus)
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
            f"exclude: {words.common:,} runs of 13 words are in more than 10 entries of the evaluation set, as a "
            "template; they say nothing of any entry"
        )
    if words.empty:
        work.progress.warn(f"exclude: {words.empty:,} entries of the evaluation set have no words")
    held, features = _entries(work, store, corpus)
    rows = sum(stop - start for start, stop in (store.shard_range(store.shards[place]) for place in missing))
    threads = work.config.threads or 0
    with work.progress.stage("exclude", len(store), done=len(store) - rows) as bar:
        for place in missing:
            shard = store.shards[place]
            start, stop = store.shard_range(shard)
            shared = []
            for first in range(start, stop, _ROWS):
                texts = [row_texts(row) for row in work.candidates.rows(first, min(stop, first + _ROWS))]
                shared += [
                    [first - start + at, entry, kind, text]
                    for at, entry, kind, text in words.find(texts, n_threads=threads)
                ]
                bar.advance(len(texts))
            tensors: dict[str, NDArray[Any]] = {"shared": np.frombuffer(json.dumps(shared).encode(), np.uint8)}
            if held is not None and features is not None:
                nearest, cosines = held.nearest(features.of_shard(shard), -1.0, n_threads=threads)
                tensors |= {"nearest": nearest.astype(np.int32), "cosine": cosines}
            files[place].write(tensors)


def read_excluded(layout: RunLayout, record: RunRecord, store: SketchStore, most: float) -> Iterator[ExcludedRow]:
    """Yield the valid rows that are excluded, in their order (`ensure_excluded` before).

    Args:
        layout: of the run.
        record: of the run.
        store: the sweep.
        most: the option exclude_similarity.

    Raises:
        StoreError: when a file is missing or damaged.
    """
    for shard in store.shards:
        start, stop = store.shard_range(shard)
        file = _file(layout, record, store, shard)
        tensors, _ = file.read()
        shared = _shared(file.path, tensors, stop - start)
        cosines, nearest = np.zeros(stop - start, np.float32), np.full(stop - start, -1, np.int32)
        if "cosine" in tensors or "nearest" in tensors:
            tensors.shaped({"rows": stop - start}, cosine="float32 rows", nearest="int32 rows")
            cosines, nearest = tensors["cosine"], tensors["nearest"]
        near = np.zeros(stop - start, np.bool_) if most == 1 else (cosines > np.float32(most)) & (nearest >= 0)
        valid = store.tensor(shard, "valid") != 0
        for at in sorted({*shared, *np.flatnonzero(near).tolist()}):
            if not valid[at]:
                continue
            cosine = float(cosines[at]) if nearest[at] >= 0 else None
            if at in shared:
                entry, kind, text = shared[at]
                yield ExcludedRow(start + at, entry, kind, text, cosine if nearest[at] == entry else None)
            else:
                yield ExcludedRow(start + at, int(nearest[at]), "cosine", "", cosine)


def _shared(path: Path, tensors: Named[NDArray[Any]], n_rows: int) -> dict[int, tuple[int, str, str]]:
    """What rows of a shard share with entries of the set, by the place of the row: the entry, the reason, the words."""
    tensors.shaped(shared="uint8 bytes")
    try:
        values = json.loads(tensors["shared"].tobytes())
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path}: shared: expected a JSON list: {error}") from None
    for value in values if isinstance(values, list) else [None]:
        if not isinstance(value, list) or [type(item) for item in value] != [int, int, str, str]:
            raise StoreError(f"{path}: shared: expected lists of row, entry, reason and words, got {value!r:.60}")
        if not (0 <= value[0] < n_rows and value[1] >= 0):
            raise StoreError(f"{path}: shared: expected a row below {n_rows} and an entry, got {value[:2]}")
    return {at: (entry, kind, text) for at, entry, kind, text in values}


def write_excluded_list(path: Path, pool: Corpus, entries: Corpus, rows: list[ExcludedRow]) -> None:
    """Write the excluded rows for people, a JSON object a line: the row, the entry, and what they share.

    Raises:
        StoreError: if the files of the run name an entry that the set has not.
    """
    if (last := max((row.entry for row in rows), default=0)) >= len(entries):
        raise StoreError(
            f"{path.parent}: excluded: expected entries below {len(entries)}, got {last}; remove the folder "
            "'excluded', and its rows are compared again"
        )
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as lines:
        for row in rows:
            value = {
                "row": row.row,
                "where": pool.where(row.row),
                "entry": entries.where(row.entry),
                "reason": row.reason,
                "words": row.words,
                "cosine": row.cosine,
            }
            lines.write(json.dumps(value, ensure_ascii=False) + "\n")


def words_of(entries: Corpus) -> _native.SharedWords:
    """Return the runs of words of an evaluation set."""
    return _native.SharedWords([row_texts(row) for row in entries.rows(0, len(entries))])


def open_exclude(work: Workspace) -> Corpus:
    """Open the evaluation set."""
    return open_corpus(work.config.exclude, name="exclude")


def _key(work: Workspace, corpus: Corpus) -> str:
    """What the files depend on beside the pool: the content of the set, and whether hidden states are compared."""
    prints = list(fingerprint_paths(corpus.files).values())
    text = json.dumps([prints, work.config.exclude_similarity < 1], sort_keys=True)
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
        try:
            examples = work.read_examples(corpus)
        except GdigError as error:
            raise CorpusError(
                f"{error}; the hidden states of the evaluation set need rows that the model can read; "
                "--exclude-similarity 1 compares words alone"
            ) from None
        rows = make_forward_pass(work.model, config, work.progress)
        if config.token_batch_size == "auto" and work.run.sweep.token_batch_size is not None:
            rows.batch_runner.token_batch_size = work.run.sweep.token_batch_size
        with work.progress.stage("exclude: entries", len(examples)) as bar:
            hidden = rows.compute(examples, bar).hidden
        file.write({"hidden": np.where(np.isfinite(hidden), hidden, 0).astype(np.float16)})
    ensure_hidden_mean(work, store)
    features = SimilarityFeatures(store, "hidden", read_hidden_mean(layout, record))
    tensors, _ = file.read()
    tensors.shaped({"dim": store.dim, "entries": len(corpus)}, hidden="float16 entries dim")
    return hold(features.centred(tensors["hidden"])), features
