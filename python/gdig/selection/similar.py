"""The walk that passes over near-copies: a row is taken if it is far enough from all rows taken before it.

That is the filter of DEITA (arXiv 2312.15685), for the order of any method.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gdig import _native
from gdig.config.budget import Limit
from gdig.selection.centred import unit_float16
from gdig.selection.hidden_cosines import read_hidden
from gdig.selection.method import FinishedSweep, Picked
from gdig.store.gather import gather, gather_sketches
from gdig.store.sketches import SketchStore

_STEP = 16_384
"""Rows whose features are read at once."""


@dataclass(frozen=True)
class SimilarityFeatures:
    """What rows are compared by: float16 vectors of about unit length.

    store: the sweep. kind: sketches of gradients, or of hidden states less the mean of the pool's first files. mean:
    float64 [dim], for hidden states.
    """

    store: SketchStore
    kind: Literal["hidden", "sketch"]
    mean: NDArray[np.float64] | None = None

    def of_shard(self, shard: int) -> NDArray[np.float16]:
        """The rows of a shard, float16 [n, dim]."""
        if self.kind == "sketch":
            return unit_float16(self.store.rows_float32(shard))
        return self.centred(read_hidden(self.store, shard))

    def of_rows(self, rows: NDArray[np.int64]) -> NDArray[np.float16]:
        """Some rows of the pool, float16 [n, dim], in the order of `rows`."""
        if self.kind == "sketch":
            return unit_float16(gather_sketches(self.store, rows))
        return self.centred(gather(self.store, "hidden", rows))

    def centred(self, hidden: NDArray[np.float16]) -> NDArray[np.float16]:
        """Hidden-state sketches less the pool's mean, at unit length."""
        assert self.mean is not None, "hidden states are compared less the mean of the pool"
        return unit_float16(unit_float16(hidden) - self.mean)


def hold(x: NDArray[np.float16]) -> _native.HeldRows:
    """Return rows [n, dim] to compare others with by cosine."""
    held = _native.HeldRows(x.shape[1])
    held.add(x)
    return held


@dataclass
class SimilarityWalk:
    """Takes rows one after another, and passes over each whose cosine with a row taken before exceeds `most`.

    It takes 2 bytes a column for each row taken, whatever the pool holds.

    features: of the rows. most: the option `max_similarity`. threads: 0 for all; the result is the same. passed: rows
    that were passed over in the orders before this one.
    """

    features: SimilarityFeatures
    most: float
    threads: int = 0
    passed: int = 0
    _held: _native.HeldRows = field(init=False)
    _seen: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64), init=False)
    _taken: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_), init=False)
    _before: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._held = _native.HeldRows(self.features.store.dim)

    def begin(self) -> None:
        """Begin another order of rows, beside those that are taken already."""
        self.passed += int((~self._taken).sum())
        self._seen, self._taken, self._before = self._seen[:0], self._taken[:0], len(self._held)

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which rows of an order are taken, bool [n]. What a shorter beginning of it gave is not done again."""
        n = min(len(rows), len(self._seen))
        differs = np.flatnonzero(rows[:n] != self._seen[:n])
        same = int(differs[0]) if len(differs) else n
        self._seen, self._taken = self._seen[:same], self._taken[:same]
        self._held.truncate(self._before + int(self._taken.sum()))
        for start in range(same, len(rows), _STEP):
            step = rows[start : start + _STEP]
            admitted = self._held.admit(self.features.of_rows(step), self.most, n_threads=self.threads)
            self._taken = np.concatenate([self._taken, admitted])
            self._seen = np.concatenate([self._seen, step])
        return self._taken

    @property
    def passed_over(self) -> int:
        """Rows that were passed over, of all orders."""
        return self.passed + int((~self._taken).sum())

    def end(self, n: int) -> None:
        """Give up the rows after the first `n` of the order: the limit does not allow them."""
        self._seen, self._taken = self._seen[:n], self._taken[:n]
        self._held.truncate(self._before + int(self._taken.sum()))


def fill(
    pick: Callable[[Limit], Picked], sweep: FinishedSweep, limit: Limit, walk: SimilarityWalk
) -> tuple[Picked, NDArray[np.int64]]:
    """Ask a method for more and more rows, until those that the walk takes fill the limit.

    Args:
        pick: picks rows within a limit.
        sweep: the finished sweep.
        limit: of the rows that are taken.
        walk: takes them.

    Returns:
        What the method picked last, and the places among its rows of those that are taken, within the limit.
    """
    walk.begin()
    most = sweep.survey.valid if limit.unit == "rows" else sweep.survey.reach(0, "tokens")
    asked, more = min(limit.amount, most), 8
    while True:
        picked = pick(Limit(limit.unit, asked))
        costs = sweep.column("tokens", picked.rows).astype(np.int64) if limit.unit == "tokens" else None
        spent = np.cumsum(walk.take(picked.rows) * (1 if costs is None else costs))
        inside = int(np.searchsorted(spent, limit.amount, side="right"))
        if costs is None and len(spent) and spent[-1] >= limit.amount:
            inside = int(np.searchsorted(spent, limit.amount)) + 1  # the row that fills the limit is the last one
        total = int(spent[-1]) if len(spent) else 0
        if total >= limit.amount or asked >= most:
            walk.end(inside)
            return picked, np.flatnonzero(walk.take(picked.rows[:inside]))
        # As many more as the share that was taken suggests, and at least twice as many more as before: where the rows
        # behind are copies of those taken, the share says little of them.
        walked = len(picked.rows) if costs is None else int(costs.sum())
        missing = limit.amount - total
        more = max(2 * more, math.ceil(1.1 * missing * max(1, walked) / max(1, total)))
        asked = min(most, asked + more)
