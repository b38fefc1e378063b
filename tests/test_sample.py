"""Samples of rows and of tokens, against the order of the hash written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gdig.data import sample
from gdig.data.tokens import Example
from gdig.errors import CorpusError
from gdig.resampling import row_hash


class Lengths:
    """Encodes row r to so many tokens; None stands for a row that cannot be used. Counts what it encodes."""

    def __init__(self, lengths: list[int | None]) -> None:
        self.lengths, self.encoded = lengths, 0

    def __len__(self) -> int:
        return len(self.lengths)

    def encode(self, corpus, rows):
        self.encoded += len(rows)
        made = [(row, self.lengths[row]) for row in rows]
        return [
            CorpusError(f"row {row}") if n is None else Example(np.zeros(n, np.int32), np.zeros(n, np.int64))
            for row, n in made
        ]


def in_order(pool: Lengths, key: int) -> list[int]:
    hashes = row_hash(key, np.arange(len(pool)))
    return sorted(range(len(pool)), key=lambda row: (int(hashes[row]), row))


@given(
    st.lists(st.one_of(st.none(), st.integers(1, 9)), min_size=1, max_size=40),
    st.integers(1, 120),
    st.integers(0, 2**63),
    st.integers(1, 50),
)
def test_a_sample_of_tokens_is_the_shortest_beginning_that_has_them(lengths, tokens, key, fewest):
    pool = Lengths(lengths)
    taken, have = [], 0
    for row in in_order(pool, key):
        if have < tokens:
            taken.append(row)
            have += lengths[row] or 0
    good = sorted(row for row in taken if lengths[row] is not None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample, "_FEWEST", fewest)
        if not any(lengths[row] for row in in_order(pool, key)[:fewest]):
            with pytest.raises(CorpusError, match="none of the"):
                sample.sample_of_tokens(pool, pool, tokens, key, "skip")
            return
        examples, rows = sample.sample_of_tokens(pool, pool, tokens, key, "skip")
        assert rows.tolist() == good and [len(example) for example in examples] == [lengths[row] for row in good]
        assert pool.encoded <= len(lengths), "no row is encoded twice"
        bad = [row for row in sorted(taken) if lengths[row] is None]
        if bad:
            with pytest.raises(CorpusError, match=f"row {bad[0]}$"):
                sample.sample_of_tokens(pool, pool, tokens, key, "error")


def test_a_long_pool_is_not_encoded_whole():
    pool = Lengths([10] * 20_000)
    examples, _ = sample.sample_of_tokens(pool, pool, 20_000, 0, "error")
    assert len(examples) == 2000 and pool.encoded <= 2300


def test_a_sample_of_rows_is_nested_in_a_sample_of_tokens():
    pool = Lengths([5] * 100)
    _, few = sample.sample_of_rows(pool, pool, 20, 3, "error")
    _, many = sample.sample_of_tokens(pool, pool, 150, 3, "error")
    assert len(few) == 20 and len(many) == 30 and set(few.tolist()) < set(many.tolist())
