"""The best rows by one number."""

from __future__ import annotations

from typing import Literal

from gdig import _native
from gdig.config.budget import Budget
from gdig.selection.method import Picked, Swept


def best(swept: Swept, by: str, budget: Budget) -> Picked:
    """Pick the rows with the highest `by` (a score), or with the lowest ("loss"), ties by row."""
    unit: Literal["rows", "tokens"] = "tokens" if budget.unit == "tokens" else "rows"
    return Picked(_native.best_rows(swept.store._native, by, (unit, int(budget.amount))))
