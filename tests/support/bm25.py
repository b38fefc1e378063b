"""BM25 (Robertson and Zaragoza 2009, equation 3.15 with k1 = 1.2, b = 0.75), over words and Chinese characters."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
from sklearn.feature_extraction.text import CountVectorizer

_CHINESE = re.compile(r"([\u3400-\u9fff])(?=([\u3400-\u9fff]))")


def terms(text: str) -> list[str]:
    """Words in small letters, and pairs of neighbouring Chinese characters."""
    pairs = [a + b for a, b in _CHINESE.findall(text)]
    return pairs + re.findall(r"[a-z0-9]+", text.lower())


class Bm25:
    """Weights of a collection's terms."""

    def __init__(self, texts: Sequence[str], k1: float = 1.2, b: float = 0.75) -> None:
        self._counter = CountVectorizer(analyzer=terms)
        counts = self._counter.fit_transform(texts).astype(np.float64).tocsr()
        n, holds = len(texts), np.asarray((counts > 0).sum(0)).ravel()
        idf = np.log1p((n - holds + 0.5) / (holds + 0.5))
        lengths = np.asarray(counts.sum(1)).ravel()
        norm = k1 * (1 - b + b * lengths / lengths.mean())
        rows = np.repeat(np.arange(n), np.diff(counts.indptr))
        weights = counts.data * (k1 + 1) / (counts.data + norm[rows]) * idf[counts.indices]
        self._weights = sp.csr_matrix((weights, counts.indices, counts.indptr), shape=counts.shape)

    def scores(self, query: str) -> np.ndarray:
        """Score of every text for a query, float64 [n]; a term that the query holds twice counts once."""
        asked = (self._counter.transform([query]) > 0).astype(np.float64)
        return np.asarray((self._weights @ asked.T).todense()).ravel()
