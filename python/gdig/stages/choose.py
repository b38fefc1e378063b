"""Choose rows from a finished sweep."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from gdig.config import Budget, Config
from gdig.resampling import resample
from gdig.stages.quality import Quality, threshold

NO_CLUSTER = np.uint32(0xFFFFFFFF)
"""Label of a row that belongs to no cluster, or may not be drawn."""


@dataclass(frozen=True)
class Choice:
    """Chosen rows int64 [n], best first, and what there is to say about how they were found."""

    rows: np.ndarray
    notes: list[str] = field(default_factory=list)


def needs_clusters(method: str) -> bool:
    """Whether a method draws from clusters."""
    return method in ("gdig", "diverse")


def choose(quality: Quality, labels: np.ndarray | None, budget: Budget, config: Config) -> Choice:
    """Choose up to `budget` rows by `config.method`.

    Args:
        quality: the seeds' verdicts on N rows.
        labels: uint32 [N] cluster of each row, NO_CLUSTER for none; for the methods that draw from clusters.
        budget: in rows or tokens.
        config: method, tau, draw, seed.

    Returns:
        The rows, by falling score (method loss: by rising loss), ties by row.
    """
    notes: list[str] = []
    if config.method in ("top", "loss"):
        order = _falling(-quality.loss if config.method == "loss" else quality.score, quality.valid)
        rows = _prefix(order, quality.tokens, budget)
    else:
        labels = np.zeros(len(quality.valid), np.uint32) if config.method == "random" or labels is None else labels
        eligible = quality.valid
        if config.method == "gdig":
            eligible, notes = _agreed(quality, config.tau, budget)
        rows = resample(
            np.where(eligible, labels, NO_CLUSTER),
            int(budget.amount),
            config.seed,
            priority=quality.score if config.draw == "score" and config.method != "random" else None,
            costs=quality.tokens if budget.unit == "tokens" else None,
        )
        rows = rows[np.lexsort((rows, -quality.score[rows].astype(np.float64)))]
    reached = int(quality.tokens[rows].sum()) if budget.unit == "tokens" else len(rows)
    if budget.unit == "rows" and reached < budget.amount:
        notes.append(f"only {reached} of the {budget.amount:.0f} rows asked for could be chosen: no more are valid")
    return Choice(rows, notes)


def _agreed(quality: Quality, tau: float, budget: Budget) -> tuple[np.ndarray, list[str]]:
    """Rows that reach tau, or the most agreement that fills the budget; and a note on which it was."""
    votes = threshold(quality, tau, budget)
    eligible = quality.valid & (quality.votes >= votes)
    found, n = int(eligible.sum()), quality.n_seeds
    reached = int((quality.valid & (quality.votes >= tau * n - 1e-9)).sum())
    if votes >= tau * n - 1e-9:
        return eligible, [f"{found} rows reach agreement {tau:g} (help at least {votes} of {n} seeds)"]
    return eligible, [
        f"only {reached} rows reach agreement {tau:g}, too few for the budget: lowered to {votes / n:.4g} "
        f"(at least {votes} of {n} seeds), which {found} rows reach"
    ]


def _falling(key: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Valid rows by falling key, ties by row."""
    rows = np.flatnonzero(valid)
    return rows[np.argsort(-key[rows].astype(np.float64), kind="stable")]


def _prefix(order: np.ndarray, tokens: np.ndarray, budget: Budget) -> np.ndarray:
    """The longest beginning of `order` that the budget allows."""
    if budget.unit == "tokens":
        return order[: int(np.searchsorted(tokens[order].cumsum(), budget.amount, side="right"))]
    return order[: int(budget.amount)]
