"""The best rows by score or by loss."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gdig import _native
from gdig.config.budget import Limit
from gdig.selection.method import FinishedSweep, Picked


def best(sweep: FinishedSweep, by: Literal["score", "loss"], limit: Limit) -> Picked:
    """Pick the rows with the highest score, or with the lowest loss, ties by row."""
    return Picked(_native.best_rows(sweep.store._native, sweep.judge if by == "score" else None, limit))


def highest(score: NDArray[np.floating], n: int) -> NDArray[np.int64]:
    """Return the n rows of the highest score, best first, ties by row."""
    if n == 0:
        return np.zeros(0, np.int64)
    least = np.partition(score, len(score) - n)[len(score) - n]
    above = np.flatnonzero(score > least)
    rows = np.concatenate([above, np.flatnonzero(score == least)[: n - len(above)]])
    return rows[np.lexsort((rows, -score[rows]))]
