"""The relevance of the method turns: influence without the row's length, relative to the pool, for a seed and for all.

For N rows and S seeds, with I the influence and |G_e| the length of a row's gradient,

    c[e, s] = I[e, s] / |G_e|
    r[e, s] = (c[e, s] - mean of column s) / standard deviation of column s
    x[e, s] = r[e, s] + m[e] / standard deviation of m,    m[e] = mean over s of r[e, s]

So two things count for a seed: how much more than an average row a row helps this seed, and how much it helps all. A
row that is the n-th best of its cluster by m then loses `discount` * log2(n). A row that repeats an earlier one comes
last and takes no place in its cluster.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gdig.kmeans import load_labels
from gdig.selection.method import FinishedSweep
from gdig.selection.relevance import Relevance, sketch_lengths

KNOWN = 0.1
"""Shift below which the model knows the pool. Pools that a model was tuned on had at most 0.07, others 0.28 or more."""

_LAST = -1e30
"""Relevance of a repeat: below that of every other row."""
_BITS = 40
"""Bits of a number in an exact sum: 2^23 numbers of a shard fit int64, and Python adds the shards."""


class Blend(NamedTuple):
    """The relevance of the rows, and what it says of them.

    relevance: of the rows of a shard. mean: float32 [N], m of each row; 0 for invalid rows.
    repeats: how many valid rows repeat an earlier one.
    """

    relevance: Relevance
    mean: NDArray[np.float32]
    repeats: int


def blend(sweep: FinishedSweep, discount: float) -> Blend:
    """Make the relevance of a sweep's rows, in a pass over the sketches and four over the influence.

    The statistics are exact sums, so they do not depend on the shards. It takes up to 80 bytes a row, of which 21 stay.

    Args:
        sweep: the finished sweep, with clusters.
        discount: what a row loses for each doubling of its place in its cluster, in standard deviations.
    """
    store = sweep.store
    columns = _Columns(sweep)
    scale = np.where(columns.deviation > 0, columns.deviation, np.inf)

    def relative(shard: int) -> NDArray[np.float64]:
        return np.asarray((columns.of(shard) - columns.average) / scale)

    mean = np.zeros(sweep.survey.rows)
    for shard in store.shards:
        start, stop = store.shard_range(shard)
        mean[start:stop] = np.where(_valid(sweep, shard), relative(shard).mean(1), 0)
    valid = np.concatenate([_valid(sweep, shard) for shard in store.shards])
    _, spread = _statistics(lambda: iter([mean[valid][:, None]]))
    is_repeat = _repeats(sweep, valid)
    places = _places(sweep, mean, valid & ~is_repeat)
    own = mean / (spread[0] if spread[0] > 0 else np.inf) - discount * _log2(places)

    def relevance(shard: int) -> NDArray[np.float32]:
        start, stop = store.shard_range(shard)
        x = relative(shard) + own[start:stop, None]
        return np.where(is_repeat[start:stop, None], _LAST, x).astype(np.float32)

    return Blend(relevance, mean.astype(np.float32), int(is_repeat.sum()))


def pool_shift(sweep: FinishedSweep) -> float:
    """Return how far the pool's mean influence on a seed is from 0, in standard deviations; the median of the seeds.

    It is near 0 where the model was tuned on the pool, whose mean gradient is then near 0. It takes three passes over
    the influence.
    """
    store = sweep.store

    def blocks() -> Iterator[NDArray[np.float64]]:
        for shard in store.shards:
            yield store.tensor(shard, "influence")[_valid(sweep, shard)].astype(np.float64)

    average, deviation = _statistics(blocks)
    return float(np.median(np.abs(average) / np.where(deviation > 0, deviation, np.inf)))


def seeds_reach(sweep: FinishedSweep) -> float:
    """Return the share of the pool's rows that matter to the seeds, from 0 to 1.

    A row's relevance r is a root mean square over the seeds: of its influence by the length of its sketch, each seed at
    unit mean square. The share is (mean r)^2 / mean r^2: 1 where all rows matter equally, and m where a share m of the
    rows matters equally and the others do not. In a pool of the seeds' own kind it is near 1. It is far below in a
    mixed pool of which the seeds are a small task. It takes four passes over the influence, and 16 bytes a row.
    """
    columns = _Columns(sweep)
    scale = np.sqrt(np.square(columns.average) + np.square(columns.deviation))
    scale = np.where(scale > 0, scale, np.inf)
    r = np.concatenate([np.sqrt(np.square(x / scale).mean(1)) for x in columns.of_valid_rows()])
    mean_square = float(np.square(r).mean()) if len(r) else 0.0
    return float(r.mean()) ** 2 / mean_square if mean_square > 0 else 1.0


class _Columns:
    """c[e, s], with the mean and the standard deviation of each column over the valid rows, float64 [S]."""

    def __init__(self, sweep: FinishedSweep) -> None:
        self._sweep = sweep
        self._lengths = np.concatenate([_lengths(sweep, shard) for shard in sweep.store.shards])
        self.average, self.deviation = _statistics(self.of_valid_rows)

    def of(self, shard: int) -> NDArray[np.float64]:
        """The rows of a shard, valid or not."""
        start, stop = self._sweep.store.shard_range(shard)
        influence = self._sweep.store.tensor(shard, "influence").astype(np.float64)
        return np.asarray(influence / self._lengths[start:stop, None])

    def of_valid_rows(self) -> Iterator[NDArray[np.float64]]:
        """The valid rows, shard by shard."""
        for shard in self._sweep.store.shards:
            yield self.of(shard)[_valid(self._sweep, shard)]


def _lengths(sweep: FinishedSweep, shard: int) -> NDArray[np.float64]:
    """The lengths of the rows' sketches; infinite for a row without a gradient, so that nothing counts for it."""
    lengths = sketch_lengths(sweep.store, shard)
    return np.where(lengths > 0, lengths, np.inf)


def _valid(sweep: FinishedSweep, shard: int) -> NDArray[np.bool_]:
    return np.asarray(sweep.store.tensor(shard, "valid").astype(bool))


def _statistics(blocks: Callable[[], Iterator[NDArray[np.float64]]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and sample standard deviation of each column of the blocks together."""
    largest = np.max([np.abs(x).max(0, initial=0) for x in blocks()], axis=0)
    unit = np.where(largest > 0, np.exp2(np.ceil(np.log2(np.where(largest > 0, largest, 1)))), 1.0)
    n, total = 0, [0] * len(unit)
    for x in blocks():
        n += len(x)
        total = _added(total, x / unit)
    mean = np.array([math.ldexp(value, -_BITS) for value in total]) / max(1, n)
    squares = [0] * len(unit)
    for x in blocks():
        squares = _added(squares, np.square(x / unit - mean) / 4)  # at most 1, because |x / unit - mean| is at most 2
    variance = 4 * np.array([math.ldexp(value, -_BITS) for value in squares]) / max(1, n - 1)
    return mean * unit, np.sqrt(variance) * unit


def _added(total: list[int], x: NDArray[np.float64]) -> list[int]:
    """Add the columns of x, of numbers from -1 to 1, to exact sums."""
    return [a + int(b) for a, b in zip(total, np.rint(np.ldexp(x, _BITS)).astype(np.int64).sum(0), strict=True)]


def _places(sweep: FinishedSweep, mean: NDArray[np.float64], counted: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The place of each counted row in its cluster by falling `mean`, ties by row: 1, 2, ...; 1 for the others."""
    assert sweep.labels is not None
    labels, _ = load_labels(sweep.labels)
    rows = np.flatnonzero(counted)
    order = rows[np.lexsort((rows, -mean[rows], labels[rows]))]
    sorted_labels = labels[order]
    starts = np.flatnonzero(np.r_[True, sorted_labels[1:] != sorted_labels[:-1]])[: len(order)]
    sizes = np.diff(np.r_[starts, len(order)])
    places = np.ones(len(mean), np.int64)
    places[order] = np.arange(len(order)) - np.repeat(starts, sizes) + 1
    return places


def _log2(places: NDArray[np.int64]) -> NDArray[np.float64]:
    """log2 of whole numbers from 1 on, by the C library: NumPy's own differs between chips in the last bit."""
    table = np.fromiter(map(math.log2, range(1, int(places.max(initial=0)) + 1)), np.float64)
    return table[places - 1]


def _repeats(sweep: FinishedSweep, valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which valid rows have the tokens and labels of an earlier valid row."""
    hashes = np.concatenate([sweep.store.tensor(shard, "hash") for shard in sweep.store.shards])
    rows = np.flatnonzero(valid)
    _, first = np.unique(hashes[rows], return_index=True)
    is_repeat = valid.copy()
    is_repeat[rows[first]] = False
    return is_repeat
