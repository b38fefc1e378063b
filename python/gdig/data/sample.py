"""Samples of a corpus: the usable rows among those that a hash puts first, so many rows or so many tokens of them."""

from __future__ import annotations

import math

import numpy as np

from gdig.data.corpus import Corpus
from gdig.data.tokens import Encoder, Example
from gdig.errors import BadRowError, CorpusError
from gdig.resampling import row_hash, sample_rows

Sample = tuple[list[Example], np.ndarray]
"""Examples, and the number of each one's row: int64, ascending."""

_LENGTH = 256
"""Tokens of a row before any is known."""
_FEWEST = 256
"""Rows that are encoded at first, at least."""
_SURPLUS = 1.1
"""Rows that are encoded next beside those that the mean length of the first asks for."""


def sample_of_rows(encoder: Encoder, corpus: Corpus, k: int, key: int, bad_rows: str, n: int | None = None) -> Sample:
    """Return the usable rows among the `k` with the smallest hash of (key, row), of the first `n` rows or of all.

    Raises:
        CorpusError: on a row that cannot be used, when `bad_rows` is "error"; or when no row of the sample can.
    """
    n = len(corpus) if n is None else n
    rows = sample_rows(n, min(k, n), key)
    return _usable(dict(zip(rows.tolist(), encoder.encode(corpus, rows.tolist()), strict=True)), bad_rows)


def sample_of_tokens(
    encoder: Encoder, corpus: Corpus, tokens: int, key: int, bad_rows: str, n: int | None = None
) -> Sample:
    """Return the usable rows with the smallest hash of (key, row), as many as it takes to have `tokens` tokens.

    They are of the first `n` rows, or of all.

    The last row counts whole. A corpus with fewer tokens is the sample itself.

    Raises: as `sample_of_rows`.
    """
    n = len(corpus) if n is None else n
    size = min(n, max(_FEWEST, tokens // _LENGTH))
    encoded: dict[int, Example | CorpusError] = {}
    while True:
        rows = sample_rows(n, size, key)
        new = [row for row in rows.tolist() if row not in encoded]
        encoded |= zip(new, encoder.encode(corpus, new), strict=True)
        order = rows[np.argsort(row_hash(key, rows), kind="stable")].tolist()
        lengths = [len(example) if isinstance(example := encoded[row], Example) else 0 for row in order]
        enough = int(np.searchsorted(np.cumsum(lengths), tokens)) + 1
        if enough <= size or size == n or not any(lengths):
            return _usable({row: encoded[row] for row in sorted(order[:enough])}, bad_rows)
        size = min(n, max(size + 1, math.ceil(_SURPLUS * size * tokens / sum(lengths))))


def _usable(encoded: dict[int, Example | CorpusError], bad_rows: str) -> Sample:
    good = {}
    for row, example in encoded.items():
        if not isinstance(example, CorpusError):
            good[row] = example
        elif bad_rows == "error":
            raise example
    if not good:
        first = next(iter(encoded.values()))
        raise BadRowError(f"candidates: none of the {len(encoded)} rows sampled can be used; the first: {first}")
    return list(good.values()), np.array(list(good), dtype=np.int64)
