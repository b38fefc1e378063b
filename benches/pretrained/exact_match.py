"""How many held-out answers a model gets right to the letter after a training, with the whole pool as a mark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benches.pretrained.pools import Pool
from benches.pretrained.result_tables import BEFORE, ORACLE
from benches.pretrained.training import Trainer
from benches.pretrained.trials import Trial, Trials
from benches.shared.steps import Steps

WHOLE = "the whole pool"
"""As many steps as the others, of rows of the whole pool."""
RULES = (BEFORE, "random", "top, mean", "RDS+", "BM25, by turns", "gdig", ORACLE, WHOLE)


def measure(
    pool: Pool, trials: Trials, trainer: Trainer, steps: Steps, budget: float, random_seeds: Sequence[int]
) -> dict[str, Any]:
    """By rule the held-out loss and whether the answer is exact: [trainings, rows]."""
    facts: dict[str, Any] = {}
    for rule in RULES:
        found = []
        for random_seed in random_seeds if rule != BEFORE else random_seeds[:1]:
            rows = _rows(rule, pool, trials, budget, random_seed)
            key = [None if rows is None else rows.tolist(), pool.held.tolist(), random_seed, trainer.asked]

            def answers(rows: np.ndarray | None = rows, random_seed: int = random_seed) -> list[list[float]]:
                return [x.tolist() for x in trainer.answers(rows, pool.held, random_seed)]

            found.append(steps.facts(f"answers {pool.name}", key, answers))
        losses, exact = (np.array([own[i] for own in found], float) for i in (0, 1))
        facts[rule] = {"loss": losses.round(5).tolist(), "exact": exact.astype(int).tolist()}
    return facts


def _rows(rule: str, pool: Pool, trials: Trials, budget: float, random_seed: int) -> np.ndarray | None:
    if rule == BEFORE:
        return None
    if rule == WHOLE:
        return np.sort(pool.rows)
    return np.sort(pool.rows[trials.choose(Trial(pool, rule, budget, random_seed))])
