"""Choose rows from a finished sweep, file by file: nothing is held for each row of the pool."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gdig import _native
from gdig.config import Budget, Config
from gdig.stages.quality import Survey, threshold, wanted_votes
from gdig.store import SketchStore


@dataclass(frozen=True)
class Choice:
    """Chosen rows int64 [n], best first; what the files say of them; and how they were found.

    columns: votes uint32, score float32, loss float32, tokens int64, and where there are clusters label uint32 and
    distance float32, all [n].
    """

    rows: np.ndarray
    columns: dict[str, np.ndarray]
    notes: list[str] = field(default_factory=list)


def needs_clusters(method: str) -> bool:
    """Whether a method draws from clusters."""
    return method in ("gdig", "diverse")


def choose(store: SketchStore, labels: Path | None, survey: Survey, budget: Budget, config: Config) -> Choice:
    """Choose up to `budget` rows by `config.method`.

    Args:
        store: the finished sweep.
        labels: directory of the label files, for the methods that draw from clusters.
        survey: of the sweep.
        budget: in rows or tokens.
        config: method, tau, draw, quotas, seed.

    Returns:
        The rows, by falling score (method loss: by rising loss), ties by row.
    """
    notes: list[str] = []
    by_tokens = budget.unit == "tokens"
    if config.method in ("top", "loss"):
        by = "loss" if config.method == "loss" else config.score
        rows = _native.best_rows(store._native, by, int(budget.amount), by_tokens)
    else:
        votes = 0
        if config.method == "gdig":
            votes = threshold(survey, config.tau, budget)
            notes = [_agreed(survey, config.tau, votes)]
        rows = _native.draw_rows(
            store._native,
            labels if needs_clusters(config.method) else None,
            least_votes=votes,
            by_score=config.score if config.draw == "score" and config.method != "random" else None,
            quotas=config.quotas,
            budget=int(budget.amount),
            tokens=by_tokens,
            seed=config.seed,
        )
    columns = _native.row_columns(store._native, labels, rows, config.score)
    if config.method not in ("top", "loss"):
        order = np.lexsort((rows, -columns["score"].astype(np.float64)))
        rows, columns = rows[order], {name: column[order] for name, column in columns.items()}
    if not by_tokens and len(rows) < budget.amount:
        notes.append(f"only {len(rows)} of the {budget.amount:.0f} rows asked for could be chosen: no more are valid")
    return Choice(rows, columns, notes)


def _agreed(survey: Survey, tau: float, votes: int) -> str:
    """What to say of the threshold: whether tau was reached, or to what it was lowered."""
    n, wanted = survey.n_seeds, wanted_votes(tau, survey.n_seeds)
    found = survey.reach(votes)
    if votes >= wanted:
        return f"{found} rows reach agreement {tau:g} (help at least {votes} of {n} seeds)"
    return (
        f"only {survey.reach(wanted)} rows reach agreement {tau:g}, too few for the budget: lowered to {votes / n:.4g} "
        f"(at least {votes} of {n} seeds), which {found} rows reach"
    )
