"""The best rows by one number: the score that the seeds give them, or their loss."""

from __future__ import annotations

from typing import Literal

from gdig import _native
from gdig.config import Budget, Config
from gdig.strategies.base import Picked, Swept


def top(swept: Swept, budget: Budget, seed: int, options: Config) -> Picked:
    """Rows with the highest score, ties by row."""
    return _best(swept, options.score, budget)


def loss(swept: Swept, budget: Budget, seed: int, options: Config) -> Picked:
    """Rows with the lowest loss, ties by row."""
    return _best(swept, "loss", budget)


def _best(swept: Swept, by: str, budget: Budget) -> Picked:
    unit: Literal["rows", "tokens"] = "tokens" if budget.unit == "tokens" else "rows"
    return Picked(_native.best_rows(swept.store._native, by, (unit, int(budget.amount))))
