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
    """A finished sweep in numbers, which do not grow with its rows.

    The votes of a row are the seeds that it helps (influence > 0), or the tasks that it helps (mean influence on their
    seeds > 0). Its agreement is votes / voters. Its score follows from its influence by the option `score`.

    rows: N, valid or not. n_seeds: S. counts, tokens: int64 [voters + 1], valid rows with 0, 1, ... votes, and their
    tokens. all_tokens: of all rows. score_sum: sum of the valid rows' scores. kind: who votes, "seeds" or "tasks".
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
        """Number of voters: the seeds or the tasks; 0 in a run without gradients."""
        return len(self.counts) - 1

    @property
    def valid(self) -> int:
        """Number of rows that can be selected."""
        return int(self.counts.sum())

    @property
    def mean_agreement(self) -> float:
        """Mean agreement of the valid rows; NaN without valid rows or voters."""
        votes = int((self.counts * np.arange(self.voters + 1)).sum())
        return votes / (self.valid * self.voters) if self.valid and self.voters else math.nan

    @property
    def mean_score(self) -> float:
        """Mean score of the valid rows; NaN without valid rows."""
        return self.score_sum / self.valid if self.valid else math.nan

    def reach(self, votes: int, unit: str = "rows") -> int:
        """Return how many valid rows (or tokens of them) have at least `votes` votes."""
        return int((self.tokens if unit == "tokens" else self.counts)[votes:].sum())


def survey(store: SketchStore, score: Score, tasks: np.ndarray | None = None) -> Survey:
    """Survey a finished sweep in one pass over its shards.

    Args:
        store: the sweep.
        score: the rule by which influence becomes a score (see `gdig.config.options`).
        tasks: int64 [S], the task of each seed, when tasks vote and not seeds.

    Raises:
        StoreError: naming the file, row and column of a number that is not finite.
    """
    rows, n_seeds, counts, row_tokens, all_tokens, score_sum = _native.survey(store._native, score, tasks)
    kind: Literal["seeds", "tasks"] = "seeds" if tasks is None else "tasks"
    return Survey(rows, n_seeds, counts.astype(np.int64), row_tokens.astype(np.int64), all_tokens, score_sum, kind)


def wanted_votes(tau: float, voters: int) -> int:
    """Return the least votes whose share of the voters is at least `tau`."""
    return math.ceil(tau * voters - 1e-9)


def threshold(survey: Survey, tau: float, limit: Limit) -> int:
    """Return the least votes that a row needs: those of `tau`, or the most votes that still fill the limit.

    Args:
        survey: of the sweep.
        tau: wanted agreement, 0..1.
        limit: of rows or tokens.
    """
    wanted = wanted_votes(tau, survey.voters)
    enough = (votes for votes in range(wanted, 0, -1) if survey.reach(votes, limit.unit) >= limit.amount)
    return next(enough, 0)
