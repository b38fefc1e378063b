"""What each rule chooses from each pool, and what a training on it gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benches.pretrained.pools import Pool
from benches.pretrained.result_tables import BEFORE, ORACLE
from benches.pretrained.rules import RULES, Rule
from benches.pretrained.training import Trainer
from benches.pretrained.view import View
from benches.shared.steps import Steps


@dataclass(frozen=True)
class Trial:
    """One choice and one training: a rule's rows of a pool at a budget (a share of the pool) and a random seed."""

    pool: Pool
    rule: str
    budget: float
    random_seed: int

    @property
    def k(self) -> int:
        """Rows of the budget."""
        return round(self.budget * len(self.pool.rows))


class Trials:
    """Choices and trainings over one collection; finished ones are kept."""

    def __init__(self, steps: Steps, trainer: Trainer, views: Callable[[Pool], View]) -> None:
        self._steps, self._trainer, self._views = steps, trainer, views
        self._seen: dict[str, View] = {}

    def view(self, pool: Pool) -> View:
        """The signals of a pool."""
        if pool.name not in self._seen:
            self._seen[pool.name] = self._views(pool)
        return self._seen[pool.name]

    def choose(self, trial: Trial) -> np.ndarray:
        """Places of the chosen rows in the pool; a rule that draws draws by the random seed."""
        if trial.rule == ORACLE:
            good = np.flatnonzero(trial.pool.good)
            rng = np.random.default_rng(trial.random_seed)
            _, first = np.unique(trial.pool.rows[good], return_index=True)
            return rng.permutation(good[first])[: trial.k]
        rule: Rule = RULES[trial.rule]
        return np.asarray(rule(self.view(trial.pool), trial.k, trial.random_seed))

    def losses(self, trial: Trial) -> np.ndarray:
        """Loss of the pool's held-out rows after a training on the choice, [rows]."""
        if trial.rule == BEFORE:
            asked = [trial.pool.held.tolist(), self._trainer.asked]
            make = lambda: self._trainer.untrained(trial.pool.held).tolist()  # noqa: E731
            return np.array(self._steps.facts("before training", asked, make))
        rows = np.sort(trial.pool.rows[self.choose(trial)])
        asked = [rows.tolist(), trial.pool.held.tolist(), trial.random_seed, self._trainer.asked]
        make = lambda: self._trainer.outcome(rows, trial.pool.held, trial.random_seed).tolist()  # noqa: E731
        return np.array(self._steps.facts(f"training {trial.pool.name}", asked, make))


def describe(pool: Pool, chosen: np.ndarray) -> dict[str, float]:
    """Shares of the chosen rows: clean rows of the target, and rows that are there already."""
    return {
        "good": round(float(pool.good[chosen].mean()), 4),
        "repeated": round(1 - len(np.unique(pool.rows[chosen])) / len(chosen), 4),
    }


def choices(trials: Trials, pool: Pool, rules: Sequence[str], budget: float) -> dict[str, dict[str, float]]:
    """What each rule's first choice holds, without a training."""
    return {rule: describe(pool, trials.choose(Trial(pool, rule, budget, 0))) for rule in rules}


def outcome(trials: Trials, pool: Pool, rule: str, budget: float, random_seeds: Sequence[int]) -> dict[str, Any]:
    """What a record says of a rule at one budget."""
    asked = [Trial(pool, rule, budget, random_seed) for random_seed in random_seeds]
    losses = np.stack([trials.losses(trial) for trial in asked])
    chosen = [trials.choose(trial) for trial in asked] if rule != BEFORE else []
    facts = [describe(pool, rows) for rows in chosen]
    means = {key: round(float(np.mean([f[key] for f in facts])), 4) for key in (facts[0] if facts else {})}
    return {"loss": losses.round(5).tolist(), **means}
