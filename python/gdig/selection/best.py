"""The best rows by one number."""

from __future__ import annotations

from gdig import _native
from gdig.config.budget import Limit
from gdig.selection.method import Picked, Swept


def best(swept: Swept, by: str, limit: Limit) -> Picked:
    """Pick the rows with the highest `by` (a score), or with the lowest ("loss"), ties by row."""
    return Picked(_native.best_rows(swept.store._native, by, limit))
