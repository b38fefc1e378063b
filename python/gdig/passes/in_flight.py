"""Batches whose results are on the way from the device while later batches start, those of the next shard too."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from gdig.model.batches import Batch
from gdig.model.host_copy import HostCopy
from gdig.passes.shard_resume import ShardResume
from gdig.progress import Bar


class RowNumbers(NamedTuple):
    """What a pass computes of n rows, all float32.

    numbers: [n, S], the features. sketch: [n, dim], unscaled. loss: [n]. hidden: [n, dim], or [n, 0]
    without a hidden-state sketch.
    """

    numbers: np.ndarray
    sketch: np.ndarray
    loss: np.ndarray
    hidden: np.ndarray


class SpanRows:
    """The numbers of n rows that follow each other, while their batches pass.

    Args:
        rows: the arrays to fill.
        bar: a bar with one unit a row.
        resume: has the rows that an earlier start has done, and keeps those of this start.
        then: called with the rows as soon as all are there.
    """

    def __init__(
        self, rows: RowNumbers, bar: Bar | None, resume: ShardResume | None, then: Callable[[RowNumbers], object]
    ) -> None:
        self._rows, self._bar, self._resume, self._then = rows, bar, resume, then
        self._columns = rows._asdict()
        self._done = np.zeros(len(rows.loss), dtype=bool) if resume is None else resume.load(self._columns)
        self._waiting, self._all_started, self.whole = 0, False, False

    def missing(self, batches: Sequence[Batch]) -> list[Batch]:
        """Return the batches to pass, and count the others in the bar. A batch of which a piece alone is done is passed
        again as a whole."""
        finished = [batch for batch in batches if self._done[batch.rows].all()]
        if self._bar is not None:
            n_tokens = sum(int(batch.lengths.sum()) for batch in finished)
            self._bar.skip(sum(len(batch.rows) for batch in finished), tokens=n_tokens)
        return [batch for batch in batches if not self._done[batch.rows].all()]

    def start(self) -> None:
        """Count a batch as started."""
        self._waiting += 1

    def end_starts(self) -> None:
        """All batches have started."""
        self._all_started = True
        self._end_if_whole()

    def take(self, batch: Batch, result: HostCopy) -> None:
        """Fill in the rows of a batch, for which the caller waits."""
        for column, values in zip(self._rows, result.numpy(), strict=True):
            column[batch.rows] = values
        self._done[batch.rows] = True
        if self._bar is not None:
            self._bar.advance(len(batch.rows), tokens=int(batch.lengths.sum()))
        self._waiting -= 1
        self._end_if_whole()

    def keep(self, *, now: bool = False) -> None:
        """Write the rows that are done into the resume file, if it is due or `now`."""
        if self._resume is not None and not self.whole:
            self._resume.keep(self._done, self._columns, now=now)

    def _end_if_whole(self) -> None:
        if self._all_started and not self._waiting:
            self.whole = True
            self._then(self._rows)


class Flight:
    """Batches that have started, in order, of one span of rows or of two that follow each other.

    Args:
        limit: how many results may be on the way while the next batch starts.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._started: deque[tuple[SpanRows, Batch, HostCopy]] = deque()
        self._open: list[SpanRows] = []

    def add(self, span: SpanRows, batch: Batch, result: HostCopy) -> None:
        """Add a batch that has just started, and wait for the oldest ones above the limit."""
        if span not in self._open:
            self._open = [*(other for other in self._open if not other.whole), span]
        span.start()
        self._started.append((span, batch, result))
        while len(self._started) > self._limit:
            self._land().keep()

    def land(self) -> None:
        """Wait for all batches, and let go of the spans that are whole."""
        while self._started:
            self._land()
        self._open = [span for span in self._open if not span.whole]

    def save(self) -> None:
        """After an error: wait for all batches, and keep the rows of spans that are not whole. Another error that this
        meets is left out, because the first is the one to raise."""
        with contextlib.suppress(Exception):
            self.land()
        for span in self._open:
            with contextlib.suppress(Exception):
                span.keep(now=True)

    def _land(self) -> SpanRows:
        span, batch, result = self._started.popleft()
        span.take(batch, result)
        return span
