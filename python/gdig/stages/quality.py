"""What the seeds say of each candidate: agreement and mean influence (arXiv 2405.12915, equation 4)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gdig.config import Budget
from gdig.store import SketchStore


@dataclass(frozen=True)
class Quality:
    """Per row of the pool [N]: votes int32 (seeds that the row helps), score float32 (mean influence over the seeds),
    loss float32, tokens int32, valid bool. `n_seeds` is S; agreement is votes / S."""

    votes: np.ndarray
    score: np.ndarray
    loss: np.ndarray
    tokens: np.ndarray
    valid: np.ndarray
    n_seeds: int

    @property
    def agreement(self) -> np.ndarray:
        """Share of the seeds that each row helps: float64 [N], 0..1."""
        return self.votes / self.n_seeds


def read_quality(store: SketchStore) -> Quality:
    """Read the verdicts of a finished sweep, one shard at a time."""
    n = len(store)
    votes, score, loss = np.empty(n, np.int32), np.empty(n, np.float32), np.empty(n, np.float32)
    tokens, valid = np.empty(n, np.int32), np.empty(n, bool)
    n_seeds = 0
    for shard in range(store.n_shards):
        part = slice(*store.shard_range(shard))
        influence = store.tensor(shard, "influence")
        n_seeds = influence.shape[1]
        votes[part] = (influence > 0).sum(1)
        score[part] = influence.mean(1, dtype=np.float64)
        loss[part], tokens[part] = store.tensor(shard, "loss"), store.tensor(shard, "tokens")
        valid[part] = store.tensor(shard, "valid") != 0
    return Quality(votes, score, loss, tokens, valid, n_seeds)


def threshold(quality: Quality, tau: float, budget: Budget) -> int:
    """Least votes a row needs: those of `tau`, or the most that still lets the budget be filled.

    Args:
        quality: the seeds' verdicts.
        tau: wanted agreement, 0..1.
        budget: in rows or tokens.
    """
    wanted = math.ceil(tau * quality.n_seeds - 1e-9)
    weights = quality.tokens if budget.unit == "tokens" else None
    counts = np.bincount(
        quality.votes[quality.valid],
        weights=None if weights is None else weights[quality.valid],
        minlength=quality.n_seeds + 1,
    )
    reach = counts[::-1].cumsum()[::-1]  # rows (or tokens) with at least v votes
    enough = np.flatnonzero(reach >= budget.amount)
    return min(wanted, int(enough[-1]) if len(enough) else 0)
