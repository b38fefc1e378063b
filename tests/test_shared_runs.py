"""Runs of words that rows share with an evaluation set, against plain Python, and templates that exclude nothing."""

from __future__ import annotations

import re

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import gdig
from gdig import _native
from gdig.selection.shared_runs import OWN_WORDS, RunCounts, SharedRuns, common_above
from tests.support import profiles
from tests.support.project_fixtures import read_jsonl, translation_rows, write_jsonl
from tests.support.swept_run import make_swept

LETTERS = "abcdef"
RUN = 13


Words = tuple[str, ...]


def parts(words: list[str], size: int) -> list[tuple[int, Words]]:
    """Place and words of each part of a text with `size` words."""
    return [(i, tuple(words[i : i + size])) for i in range(len(words) - size + 1)]


def plain_entries(entries: list[list[str]]) -> tuple[dict[Words, list[int]], dict[Words, list[int]]]:
    """The entries with each run: of 13 words or a whole text of 8 to 12; and those with 8 to 12 words inside a text."""
    whole: dict[Words, list[int]] = {}
    inside: dict[Words, list[int]] = {}
    for number, texts in enumerate(entries):
        for words in (text.split() for text in texts):
            for size in range(OWN_WORDS, RUN + 1):
                having = whole if size in (len(words), RUN) else inside
                for _, run in parts(words, size):
                    if len(set(run)) >= 4 and number not in having.setdefault(run, []):
                        having[run].append(number)
    return whole, inside


def plain_runs(texts: list[str], whole: dict[Words, list[int]], inside: dict[Words, list[int]]):
    """Text, place, words and first entry of what a row shares: an entry's run, or its own short text inside one's."""
    for text, words in enumerate(t.split() for t in texts):
        places = sorted((at, run) for size in range(OWN_WORDS, RUN + 1) for at, run in parts(words, size))
        for at, run in sorted(places, key=lambda place: (place[0], len(place[1]))):
            if run in whole or (len(run) == len(words) < RUN and run in inside):
                yield text, at, run, (whole.get(run) or inside[run])[0]


def plain_excluded(rows: list[list[str]], entries: list[list[str]], most: int) -> dict[int, tuple[int, ...]]:
    """By row: the entry of the first run that is its own, with text, place and length; (entry,) for an equal row."""
    all_words = [" ".join(texts).split() for texts in entries]
    whole, inside = plain_entries(entries)
    equal = {i: all_words.index(w) for i, t in enumerate(rows) if (w := " ".join(t).split()) and w in all_words}
    shared = {i: list(plain_runs(texts, whole, inside)) for i, texts in enumerate(rows) if i not in equal}
    different: dict[Words, set[Words]] = {}
    for i, runs in shared.items():
        for _, _, words, _ in runs:
            different.setdefault(words, set()).add(tuple(" ".join(rows[i]).split()))
    entries_with = {w: {*whole.get(w, ()), *inside.get(w, ())} for w in different}
    common = {words for words in different if len(entries_with[words]) > 10 or len(different[words]) > most}
    shares: dict[int, tuple[int, ...]] = {i: (entry,) for i, entry in equal.items()}
    for i, runs in shared.items():
        covered = {(text, at + k) for text, at, words, _ in runs if words in common for k in range(len(words))}
        for text, at, words, entry in runs:
            if words not in common and sum((text, at + k) not in covered for k in range(len(words))) >= OWN_WORDS:
                shares.setdefault(i, (entry, text, at, len(words)))
    return shares


def excluded(rows: list[list[str]], entries: list[list[str]], most: int, per_shard: int) -> dict[int, tuple[int, ...]]:
    """The same by the functions of gdig, shard by shard."""
    set_, shards, shares = _native.SharedWords(entries), [], {}
    counts = RunCounts(most)
    for start in range(0, len(rows), per_shard):
        stop, pieces = min(len(rows), start + per_shard), []
        for first in range(start, stop, 5):
            (places, of), runs = set_.find(rows[first : min(stop, first + 5)], n_threads=2)
            shares.update({first + at: (entry,) for at, entry in zip(places.tolist(), of.tolist(), strict=True)})
            pieces.append((first - start, runs))
        shards.append((start, SharedRuns.join(pieces).without_settled()))
        counts.add(shards[-1][1])
    for start, runs in shards:
        own = runs.own(counts.common)
        for row, entry, text, at, n in zip(own.row, own.entry, own.text, own.start, own.words, strict=True):
            shares.setdefault(start + int(row), (int(entry), int(text), int(at), int(n)))
    return shares


@st.composite
def texts(draw) -> list[str]:
    """Texts of few words, around one of two templates or a part of one, so that rows and entries share much."""
    whole = [LETTERS * 3, LETTERS[::-1] * 2 + "xyz", ""]
    templates = st.sampled_from([" ".join(letters) for letters in [*whole, *(LETTERS[:n] * 2 for n in (4, 5, 6))]])
    words = st.just("") | st.lists(st.sampled_from(LETTERS), max_size=9).map(" ".join)
    return [f"{draw(words)} {draw(templates)} {draw(words)}".strip() for _ in range(draw(st.integers(1, 2)))]


@settings(max_examples=profiles.examples(60))
@given(
    st.lists(texts(), max_size=40), st.lists(texts(), min_size=1, max_size=14), st.integers(0, 5), st.integers(3, 20)
)
def test_the_excluded_rows_are_those_of_plain_python(rows, entries, most, per_shard):
    assert excluded(rows, entries, most, per_shard) == plain_excluded(rows, entries, most)


def test_a_shard_keeps_few_places_of_a_common_run_and_a_longer_pool_changes_no_earlier_row():
    template = " ".join(f"w{i}" for i in range(RUN))
    rows = [[f"{template} n{i}"] for i in range(200)]
    (_, _), runs = _native.SharedWords([[template]]).find(rows)
    shared = SharedRuns.join([(0, runs)])
    assert len(shared.row) == 200
    unsettled = shared.without_settled()
    assert unsettled.row.tolist() == list(range(51)) and (unsettled.entry == 0).all()
    for n in (5, 6, 200):  # whatever lies behind the first n rows
        for some in (shared.some(shared.row < n), unsettled.some(unsettled.row < n)):
            counts = RunCounts(common_above(n))
            counts.add(some)
            assert len(counts.common) == (n > 5)
            assert len(some.own(counts.common).row) == (0 if n > 5 else n)


def test_how_many_rows_a_run_may_have():
    assert [common_above(n) for n in (0, 500, 600, 4_999, 5_000, 10**7)] == [5, 5, 6, 49, 50, 50]


def test_the_template_of_a_pool_excludes_no_row_and_a_copy_inside_it_is_found(project, tmp_path):
    """A template of 14 words around all rows, and entries with the same template, as mixed instruction sets have it."""
    template = "Read the sentence below with care, then write down what it means in plain English:"
    rows = [{**row, "src_text": f"{template} {row['trg_text']}"} for row in translation_rows(40)]
    own = "seven tired painters watch the quiet harbour while evening rain falls"
    rows[7]["src_text"] = f"{template} {own}"
    for i in (20, 21):  # the same row again is no other row
        rows[i] = rows[7]
    entries = [{"prompt": f"{template} {own}"}, {"prompt": f"{template} A train leaves."}]
    pool, evaluation = write_jsonl(tmp_path / "pool.jsonl", rows), write_jsonl(tmp_path / "eval.jsonl", entries)
    options = project.options(
        tmp_path / "run", candidates=(str(pool),), method="loss", budget="20", exclude=(str(evaluation),)
    )
    make_swept(options)
    picked = gdig.select(**options, exclude_similarity=1.0)
    listed = read_jsonl(tmp_path / "run" / "excluded.jsonl")
    assert [row["row"] for row in listed] == [7, 20, 21] and not set(picked.rows.tolist()) & {7, 20, 21}
    assert {row["reason"] for row in listed} == {"words"} and "eval.jsonl, row 0 (line 1)" in listed[0]["entry"]
    assert "plain English: seven tired painters" in listed[0]["words"]
    assert any(re.search(r"runs of words of the evaluation set are in more than 5 rows", x) for x in picked.summary)


def test_a_text_is_cut_at_its_words():
    cut = _native.SharedWords.excerpt
    assert cut("One,  two: three. four", 1, 3) == "two: three. four" and cut("One", 0, 9) == "One"
    assert cut("One two", 2, 1) == cut("One two", 0, 0) == ""
    assert len(SharedRuns.join([(0, _native.SharedWords([["a"]]).find([])[1])]).own(np.zeros(0, np.uint64)).row) == 0
