"""What the seeds say of the pool: agreement and mean influence (arXiv 2405.12915, equation 4), counted in one pass."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gdig import _native
from gdig.config import Budget
from gdig.options import Score
from gdig.store import SketchStore


@dataclass(frozen=True)
class Survey:
    """What a finished sweep holds, in numbers; nothing is kept for each row.

    A row's votes are the seeds that it helps (influence > 0), its agreement votes / S, its score what the option of
    that name makes of its influence.

    rows: N, valid or not. n_seeds: S. counts, tokens: int64 [S + 1], valid rows with that many votes, and their tokens.
    all_tokens: of all rows. score_sum: of the valid rows' scores.
    """

    rows: int
    n_seeds: int
    counts: np.ndarray
    tokens: np.ndarray
    all_tokens: int
    score_sum: float

    @property
    def valid(self) -> int:
        """Rows that can be chosen."""
        return int(self.counts.sum())

    @property
    def mean_agreement(self) -> float:
        """Of the valid rows; NaN when there are none."""
        votes = int((self.counts * np.arange(self.n_seeds + 1)).sum())
        return votes / (self.valid * self.n_seeds) if self.valid else math.nan

    @property
    def mean_score(self) -> float:
        """Of the valid rows; NaN when there are none."""
        return self.score_sum / self.valid if self.valid else math.nan

    def reach(self, votes: int, unit: str = "rows") -> int:
        """Valid rows (or their tokens) with at least so many votes."""
        return int((self.tokens if unit == "tokens" else self.counts)[votes:].sum())


def survey(store: SketchStore, score: Score) -> Survey:
    """Count what a finished sweep holds, in one pass over its shards.

    Args:
        store: the sweep.
        score: the rule by which influence becomes a score (see `gdig.options`).

    Raises:
        StoreError: naming the file, row and column of a number that cannot be.
    """
    rows, n_seeds, counts, tokens, all_tokens, score_sum = _native.survey(store._native, score)
    return Survey(rows, n_seeds, counts.astype(np.int64), tokens.astype(np.int64), all_tokens, score_sum)


def wanted_votes(tau: float, n_seeds: int) -> int:
    """Least votes whose share of the seeds is `tau`."""
    return math.ceil(tau * n_seeds - 1e-9)


def threshold(survey: Survey, tau: float, budget: Budget) -> int:
    """Least votes a row needs: those of `tau`, or the most that still lets the budget be filled.

    Args:
        survey: of the sweep.
        tau: wanted agreement, 0..1.
        budget: in rows or tokens.
    """
    wanted = wanted_votes(tau, survey.n_seeds)
    enough = (votes for votes in range(wanted, 0, -1) if survey.reach(votes, budget.unit) >= budget.amount)
    return next(enough, 0)
