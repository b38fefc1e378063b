"""DSIR (arXiv 2302.03169): rows whose tokens and pairs of tokens are those of the seeds. No model is needed."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.philox import stream_key
from gdig.resampling import row_hash
from gdig.selection.best import highest
from gdig.selection.method import FinishedSweep, OrderedRows, Picked, rows_within
from gdig.selection.token_files import TokenRows

BUCKETS = 10_000
"""Buckets of the hashed tokens and pairs of tokens."""
SMOOTHING = 1.0
"""Added to the count of each bucket."""


def dsir(sweep: FinishedSweep, limit: Limit, random_seed: int, options: Config) -> Picked:
    """Pick the rows with the largest log weight plus Gumbel noise: a draw without replacement by importance weights.

    The log weight of a row is the sum of log p_seeds - log p_pool over its hashed tokens and pairs of tokens. These
    probabilities are shares of counts. The noise is a hash of (random_seed, row). A smaller budget's rows are the first
    of a larger one's.
    """
    weights = log_weights(sweep)
    noisy = weights + gumbel_noise(random_seed, len(weights))
    noisy[~np.isfinite(weights)] = -np.inf
    result, n = rows_within(lambda k: OrderedRows(highest(noisy, min(k, sweep.survey.valid))), sweep, limit)
    rows = result.rows[:n]
    return Picked(rows, {"log_weight": weights[rows]})


def log_weights(sweep: FinishedSweep) -> NDArray[np.float64]:
    """Return the log weight of each row: float64 [N], -inf for a row that is not valid. Two passes over the tokens."""
    files = sweep.token_files()
    seeds = np.bincount(buckets(files.of_seeds())[0], minlength=BUCKETS)
    pool = np.zeros(BUCKETS, np.int64)
    for shard in sweep.store.shards:
        pool += np.bincount(buckets(files.of_shard(shard))[0], minlength=BUCKETS)
    ratios = _log_shares(seeds) - _log_shares(pool)
    weights = np.full(sweep.survey.rows, -np.inf)
    for shard in sweep.store.shards:
        start, stop = sweep.store.shard_range(shard)
        valid = sweep.store.tensor(shard, "valid") != 0
        hashed, row_of = buckets(files.of_shard(shard))
        # bincount adds one number after another, so the bits depend on nothing else.
        sums = np.bincount(row_of, weights=ratios[hashed], minlength=stop - start)
        weights[start:stop] = np.where(valid, sums, -np.inf)
    return weights


def buckets(rows: TokenRows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the bucket of each token, then of each pair of neighbouring tokens of a row, and the row of each."""
    ids, row_of = rows.ids.astype(np.uint64), rows.row_of
    inside = row_of[1:] == row_of[:-1]
    pairs = ((ids[:-1] + np.uint64(1)) << np.uint64(32) | ids[1:])[inside]
    hashed = _mix(np.concatenate([ids, pairs])) % np.uint64(BUCKETS)
    return hashed.astype(np.int64), np.concatenate([row_of, row_of[1:][inside]])


def gumbel_noise(random_seed: int, n: int) -> NDArray[np.float64]:
    """Return standard Gumbel numbers of rows 0 .. n - 1, float64 [n], by a hash of (random_seed, row)."""
    hashes = row_hash(stream_key("gumbel", random_seed), np.arange(n))
    uniform = ((hashes >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    # The logarithm of the C library: NumPy's own differs between chips in the last bit.
    return _each(lambda u: -math.log(-math.log(u)), uniform)


def _log_shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    return _each(math.log, (counts + SMOOTHING) / (counts.sum() + SMOOTHING * len(counts)))


def _each(function: Callable[[float], float], x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.fromiter(map(function, x.tolist()), np.float64, len(x))


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of splitmix64 (Steele, Lea and Flood, 2014): every bit of the result depends on every bit of x."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return x ^ (x >> np.uint64(31))
