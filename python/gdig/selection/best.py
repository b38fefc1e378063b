"""The best rows by one number."""

from __future__ import annotations

from gdig import _native
from gdig.config.budget import Limit
from gdig.selection.method import FinishedSweep, Picked


def best(sweep: FinishedSweep, by: str, limit: Limit) -> Picked:
    """Pick the rows with the highest `by` (a score), or with the lowest ("loss"), ties by row."""
    return Picked(_native.best_rows(sweep.store._native, by, limit))
