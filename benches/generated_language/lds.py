"""The linear datamodelling score (Park et al. 2023, TRAK, definition 2.4), with intervals by bootstrap.

For a test example, the score is Spearman's correlation over subsets of the pool. It compares the sum of the scores of a
subset's rows with the example's negative loss under a model trained on the subset. Test examples are averaged.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RESAMPLES = 400


@dataclass(frozen=True)
class Interval:
    """A figure, and the middle 95 % of the same figure of resampled data."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, resampled: np.ndarray) -> Interval:
        """Percentiles of the resampled values."""
        low, high = np.percentile(resampled, (2.5, 97.5))
        return cls(float(value), float(low), float(high))

    def rounded(self, digits: int = 4) -> list[float]:
        """For records: value, low, high."""
        return [round(self.value, digits), round(self.low, digits), round(self.high, digits)]


class Ranked:
    """Columns of numbers [K, S], prepared to be ranked for any resampling of the K."""

    def __init__(self, x: np.ndarray) -> None:
        k, s = x.shape
        self._level = np.empty((k, s), dtype=np.int64)
        for j in range(s):
            _, self._level[:, j] = np.unique(x[:, j], return_inverse=True)
        self._level += k * np.arange(s)

    def ranks(self, times: np.ndarray) -> np.ndarray:
        """Ranks [K, S] when item k stands there times[k] times; items that are equal share their mean rank."""
        k, s = self._level.shape
        counts = np.bincount(self._level.ravel(), np.repeat(times, s), minlength=k * s).reshape(s, k)
        middles = (counts.cumsum(1) - (counts - 1) / 2).ravel()
        return middles[self._level]


def spearman(x: Ranked, y: Ranked, times: np.ndarray) -> np.ndarray:
    """Spearman's correlation [S] of the columns of x and y, when item k stands there times[k] times.

    0 where a column does not vary.
    """
    share = (times / times.sum())[:, None]
    a, b = x.ranks(times), y.ranks(times)
    a, b = a - (share * a).sum(0), b - (share * b).sum(0)
    size = np.sqrt((share * a * a).sum(0) * (share * b * b).sum(0))
    return np.divide((share * a * b).sum(0), size, out=np.zeros(len(size)), where=size > 1e-12)


class Datamodel:
    """Subsets of the pool, and the outcomes of the test examples under models trained on these subsets.

    Args:
        members: bool [K, N], which rows are in which subset.
        outcomes: [K, S], higher is better.
        random_seed: of the resampling, the same for every method, so that differences can be resampled too.
    """

    def __init__(self, members: np.ndarray, outcomes: np.ndarray, random_seed: int = 0) -> None:
        self._members = members.astype(np.float64)
        self._outcomes = Ranked(outcomes)
        k, s = outcomes.shape
        rng = np.random.default_rng(random_seed)
        self._once = np.ones(k)
        self._subsets = [np.bincount(rng.integers(0, k, k), minlength=k) for _ in range(RESAMPLES)]
        self._examples = rng.integers(0, s, (RESAMPLES, s))

    def correlations(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean over the examples, of all [S] and resampled [RESAMPLES]; scores [N, S], or [N] for all alike."""
        if scores.ndim == 1:
            scores = np.repeat(scores[:, None], self._examples.shape[1], 1)
        return self.compare(Ranked(self._members @ scores.astype(np.float64)))

    def compare(self, predicted: Ranked) -> tuple[np.ndarray, np.ndarray]:
        """The same for any prediction of the subsets' outcomes."""
        values = spearman(predicted, self._outcomes, self._once)
        again = np.array([
            spearman(predicted, self._outcomes, times)[chosen].mean()
            for times, chosen in zip(self._subsets, self._examples, strict=True)
        ])  # fmt: skip
        return values, again

    def score(self, scores: np.ndarray) -> Interval:
        """The linear datamodelling score."""
        values, again = self.correlations(scores)
        return Interval.of(values.mean(), again)


def halves(n: int, k: int, random_seed: int) -> np.ndarray:
    """Bool [k, n]: random halves of n rows, each drawn by itself."""
    rng = np.random.default_rng(random_seed)
    members = np.zeros((k, n), dtype=bool)
    for half in members:
        half[rng.permutation(n)[: n // 2]] = True
    return members
