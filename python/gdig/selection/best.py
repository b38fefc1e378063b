"""The best rows by score or by loss."""

from __future__ import annotations

from typing import Literal

from gdig import _native
from gdig.config.budget import Limit
from gdig.selection.method import FinishedSweep, Picked


def best(sweep: FinishedSweep, by: Literal["score", "loss"], limit: Limit) -> Picked:
    """Pick the rows with the highest score, or with the lowest loss, ties by row."""
    return Picked(_native.best_rows(sweep.store._native, sweep.judge if by == "score" else None, limit))
