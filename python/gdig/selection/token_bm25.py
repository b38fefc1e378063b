"""BM25 of the pool's rows to the seeds, over token ids (Robertson and Zaragoza 2009, equation 3.15)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from gdig.selection.method import FinishedSweep
from gdig.selection.relevance import Relevance
from gdig.selection.token_files import TokenRows

K1, B = 1.2, 0.75
"""How soon a term that repeats counts no more, and how much a row's length counts."""
_QUANTUM = 2.0**-30
"""Weights are rounded to multiples of it, so that sums of fewer than 2^17 weights are exact in float64: no library,
chip or number of threads changes a bit."""
_ENTRIES = 1 << 23
"""Entries of the dense block of weights, of 8 bytes each."""


def token_bm25(sweep: FinishedSweep) -> tuple[Relevance, int]:
    """Return the BM25 of a shard's rows to each seed, and the number of seeds.

    The terms are the ids of the seeds, the collection is the pool's valid rows. A term that a seed holds twice counts
    once. The first pass over the tokens, here, counts how many rows hold each term; a call for a shard reads its rows.
    """
    files = sweep.token_files()
    terms, has_term = seed_terms(files.of_seeds())
    holding, rows, tokens = np.zeros(len(terms), np.int64), 0, 0
    for shard in sweep.store.shards:
        row_tokens = files.of_shard(shard)
        holding += np.bincount(_counts(row_tokens, terms)[1], minlength=len(terms))
        rows += int((row_tokens.lengths > 0).sum())
        tokens += len(row_tokens.ids)
    idf = np.array([math.log1p((rows - n + 0.5) / (n + 0.5)) for n in holding.tolist()])
    mean_length = tokens / max(1, rows)

    def scores(shard: int) -> NDArray[np.float32]:
        row_tokens = files.of_shard(shard)
        row_of, term, count = _counts(row_tokens, terms)
        norm = K1 * (1 - B + B * row_tokens.lengths / mean_length)
        weights = count * (K1 + 1) / (count + norm[row_of]) * idf[term]
        weights = np.rint(weights / _QUANTUM) * _QUANTUM
        out = np.empty((len(row_tokens), has_term.shape[1]), np.float32)
        step = max(1, _ENTRIES // len(terms))
        for start in range(0, len(out), step):
            stop = min(len(out), start + step)
            first, last = np.searchsorted(row_of, [start, stop])
            block = np.zeros((stop - start, len(terms)))
            block[row_of[first:last] - start, term[first:last]] = weights[first:last]
            out[start:stop] = block @ has_term
        return out

    return scores, has_term.shape[1]


def seed_terms(seeds: TokenRows) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Return the ids of the seeds, ascending, int32 [T], and which seed holds which: float64 [T, S] of 0 and 1."""
    terms, place = np.unique(seeds.ids, return_inverse=True)
    has_term = np.zeros((len(terms), len(seeds)))
    has_term[place, seeds.row_of] = 1
    return terms, has_term


def _counts(
    rows: TokenRows, terms: NDArray[np.int32]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Count the terms of each row: row, index of the term, and count of each pair that occurs, by row and term."""
    place = np.minimum(np.searchsorted(terms, rows.ids), len(terms) - 1)
    is_term = terms[place] == rows.ids
    pairs, counts = np.unique(rows.row_of[is_term] * len(terms) + place[is_term], return_counts=True)
    return pairs // len(terms), pairs % len(terms), counts
