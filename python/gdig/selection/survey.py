"""What the seeds say of the pool: agreement and mean influence (arXiv 2405.12915, equation 4), counted in one pass."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from gdig import _native
from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.selection.judge import Judge
from gdig.selection.tasks import Tasks
from gdig.store.sketches import SketchStore


@dataclass(frozen=True)
class Survey:
    """A finished sweep in numbers, which do not grow with its rows.

    The judge says which seeds or tasks vote for a row, and what its score is. Its agreement is votes / voters.

    rows: N, valid or not. n_seeds: S. counts, tokens: int64 [voters + 1], valid rows with 0, 1, ... votes, and their
    tokens. all_tokens: of all rows. score_sum, score_squares: sums of the valid rows' scores and of their
    squares. judge: of votes and scores.
    """

    rows: int
    n_seeds: int
    counts: np.ndarray
    tokens: np.ndarray
    all_tokens: int
    score_sum: float
    judge: Judge = field(default_factory=Judge)
    score_squares: float = 0.0

    @property
    def kind(self) -> Literal["seeds", "tasks"]:
        """Who votes."""
        return self.judge.kind

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

    @property
    def score_deviation(self) -> float:
        """Standard deviation of the valid rows' scores; 0 where no more than rounding tells them apart."""
        if not self.valid:
            return 0.0
        square = self.score_squares / self.valid
        variance = square - self.mean_score**2
        return math.sqrt(variance) if variance > 1e-12 * square else 0.0

    def reach(self, votes: int, unit: str = "rows") -> int:
        """Return how many valid rows (or tokens of them) have at least `votes` votes."""
        return int((self.tokens if unit == "tokens" else self.counts)[votes:].sum())


def survey(store: SketchStore, judge: Judge) -> Survey:
    """Survey a finished sweep in one pass over its shards.

    Args:
        store: the sweep.
        judge: of votes and scores (see `make_judge`).

    Raises:
        StoreError: naming the file, row and column of a number that is not finite.
    """
    rows, n_seeds, counts, row_tokens, all_tokens, score_sum, squares = _native.survey(store._native, judge)
    counts, row_tokens = counts.astype(np.int64), row_tokens.astype(np.int64)
    return Survey(rows, n_seeds, counts, row_tokens, all_tokens, score_sum, judge, squares)


def tokens_of_first(store: SketchStore, n_rows: int, all_tokens: int) -> int:
    """Return the tokens of the first rows of a sweep, valid or not. `all_tokens`: of all rows."""
    if n_rows >= len(store):
        return all_tokens
    tokens = 0
    for shard in store.shards:
        start, _ = store.shard_range(shard)
        tokens += int(store.tensor(shard, "tokens")[: max(0, n_rows - start)].sum(dtype=np.int64))
    return tokens


def make_judge(store: SketchStore, config: Config, tasks: Tasks) -> Judge:
    """Make the judge that the options score, agreement and relative_to ask for.

    relative_to="pool" takes one pass over the influence for the seeds' means.

    Args:
        store: the finished sweep.
        config: the options.
        tasks: the task of each seed; agreement="tasks" needs it.

    Raises:
        StoreError: naming the file, row and column of a number that is not finite.
    """
    of_seed = tasks.of_seed if config.agreement == "tasks" else None
    judge = Judge(config.score, of_seed)
    if store.shards and store.tensor(store.shards[0], "influence").shape[1] == 0:
        return judge  # a sweep without influence has no voters
    if config.relative_to == "pool":
        means = _native.seed_means(store._native)
        cuts = means if of_seed is None else np.bincount(of_seed, weights=means).astype(np.float64)
        judge = replace(judge, baselines=means, cuts=cuts)
    return judge


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
