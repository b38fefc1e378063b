"""Features of the pool and the seeds, less the pool's mean: their cosines tell rows apart that all point one way."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gdig.selection.hidden_cosines import exact_cosines, read_hidden
from gdig.selection.method import FinishedSweep
from gdig.store.gather import gather, gather_sketches


@dataclass(frozen=True)
class CentredFeatures:
    """Hidden-state or gradient sketches at unit length, less their mean over the valid rows, at unit length again.

    They are float16, so that their cosines are exact (`exact_cosines`). The mean is a sum of float16 numbers, which
    float64 holds exactly for up to 2^28 rows: neither shards nor threads change a bit.

    sweep: the finished sweep. kind: which sketches.
    """

    sweep: FinishedSweep
    kind: Literal["hidden", "sketch"]

    @cached_property
    def seeds(self) -> NDArray[np.float16]:
        """The seeds, float16 [S, dim]."""
        raw = self.sweep.seed_hidden() if self.kind == "hidden" else self.sweep.seed_features()
        return self._centred(unit_float16(raw))

    def of_shard(self, shard: int) -> NDArray[np.float16]:
        """The rows of a shard, float16 [n, dim]."""
        return self._centred(self._units(shard))

    def cosines(self, shard: int) -> NDArray[np.float32]:
        """The cosines of a shard's rows with the seeds, float32 [n, S]."""
        return exact_cosines(self.of_shard(shard), self.seeds).astype(np.float32)

    def of_rows(self, rows: NDArray[np.int64]) -> NDArray[np.float16]:
        """Some rows of the pool, float16 [n, dim], in the order of `rows`."""
        store = self.sweep.store
        raw = gather(store, "hidden", rows) if self.kind == "hidden" else gather_sketches(store, rows)
        return self._centred(unit_float16(raw))

    @cached_property
    def _mean(self) -> NDArray[np.float64]:
        store = self.sweep.store
        valid = (self._units(shard)[store.tensor(shard, "valid") != 0] for shard in store.shards)
        sums = [rows.sum(0, dtype=np.float64) for rows in valid]
        return np.sum(sums, axis=0) / max(1, self.sweep.survey.valid)

    def _units(self, shard: int) -> NDArray[np.float16]:
        store = self.sweep.store
        return unit_float16(read_hidden(store, shard) if self.kind == "hidden" else store.rows_float32(shard))

    def _centred(self, units: NDArray[np.float16]) -> NDArray[np.float16]:
        return unit_float16(units - self._mean)


def unit_float16(x: NDArray[np.floating]) -> NDArray[np.float16]:
    """Rows at unit length, rounded to float16; a row of zeros stays."""
    x = x.astype(np.float64)
    lengths = np.sqrt((x * x).sum(1, keepdims=True))
    return (x / np.where(lengths == 0, 1.0, lengths)).astype(np.float16)


def kernel_densities(features: NDArray[np.float16], radius: float, block: int = 1024) -> NDArray[np.float64]:
    """Return how many rows each row stands for: sum over all rows of max(0, 1 - d^2 / radius^2), d^2 = 2 - 2 cosine.

    A row counts itself as 1, so that k copies have a density of at least k. It takes all pairs of the n rows.

    Args:
        features: [n, dim], of about unit length.
        radius: of the kernel (Epanechnikov).
        block: rows that are compared with all at once.
    """
    out = np.empty(len(features))
    for start in range(0, len(features), block):
        squares = 2 - 2 * exact_cosines(features[start : start + block], features)
        # The row itself is at distance 0, also where it is a row of zeros.
        squares[np.arange(len(squares)), start + np.arange(len(squares))] = 0
        out[start : start + block] = np.maximum(0, 1 - squares / radius**2).sum(1)
    return out


def distances(cosines: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the distances of vectors of unit length with these cosines."""
    return np.sqrt(np.maximum(0, 2 - 2 * cosines.astype(np.float64)))
