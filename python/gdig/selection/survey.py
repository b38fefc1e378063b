"""What the seeds say of the pool: agreement and mean influence (arXiv 2405.12915, equation 4), counted in one pass."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gdig import _native
from gdig.config.budget import Limit
from gdig.config.options import Score
from gdig.store.sketches import SketchStore


@dataclass(frozen=True)
class Survey:
    """What a finished sweep holds, in numbers; nothing is kept for each row.

    A row's votes are the seeds that it helps (influence > 0), or the tasks (mean influence on their seeds > 0); its
    agreement is votes / voters, its score what the option of that name makes of its influence.

    rows: N, valid or not. n_seeds: S. counts, tokens: int64 [voters + 1], valid rows with that many votes, and their
    tokens. all_tokens: of all rows. score_sum: of the valid rows' scores. kind: of the voters, "seeds" or "tasks".
    """

    rows: int
    n_seeds: int
    counts: np.ndarray
    tokens: np.ndarray
    all_tokens: int
    score_sum: float
    kind: Literal["seeds", "tasks"] = "seeds"

    @property
    def voters(self) -> int:
        """How many vote for a row: S, or the tasks."""
        return len(self.counts) - 1

    @property
    def valid(self) -> int:
        """Rows that can be chosen."""
        return int(self.counts.sum())

    @property
    def mean_agreement(self) -> float:
        """Of the valid rows; NaN when there are none."""
        votes = int((self.counts * np.arange(self.voters + 1)).sum())
        return votes / (self.valid * self.voters) if self.valid else math.nan

    @property
    def mean_score(self) -> float:
        """Of the valid rows; NaN when there are none."""
        return self.score_sum / self.valid if self.valid else math.nan

    def reach(self, votes: int, unit: str = "rows") -> int:
        """Valid rows (or their tokens) with at least so many votes."""
        return int((self.tokens if unit == "tokens" else self.counts)[votes:].sum())


def survey(store: SketchStore, score: Score, tasks: np.ndarray | None = None) -> Survey:
    """Count what a finished sweep holds, in one pass over its shards.

    Args:
        store: the sweep.
        score: the rule by which influence becomes a score (see `gdig.config.options`).
        tasks: int64 [S], the task of each seed, when tasks vote and not seeds.

    Raises:
        StoreError: naming the file, row and column of a number that cannot be.
    """
    rows, n_seeds, counts, row_tokens, all_tokens, score_sum = _native.survey(store._native, score, tasks)
    kind: Literal["seeds", "tasks"] = "seeds" if tasks is None else "tasks"
    return Survey(rows, n_seeds, counts.astype(np.int64), row_tokens.astype(np.int64), all_tokens, score_sum, kind)


def wanted_votes(tau: float, voters: int) -> int:
    """Least votes whose share of the voters is `tau`."""
    return math.ceil(tau * voters - 1e-9)


def threshold(survey: Survey, tau: float, limit: Limit) -> int:
    """Least votes a row needs: those of `tau`, or the most that still lets the limit be filled.

    Args:
        survey: of the sweep.
        tau: wanted agreement, 0..1.
        limit: of rows or tokens.
    """
    wanted = wanted_votes(tau, survey.voters)
    enough = (votes for votes in range(wanted, 0, -1) if survey.reach(votes, limit.unit) >= limit.amount)
    return next(enough, 0)
