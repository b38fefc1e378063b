"""The experiments on real pairs, each a function that returns what the record keeps of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benches.shared.steps import Steps
from benches.zh_en import failures
from benches.zh_en.competence import ARMS, DAMPINGS, Arm, Checkpoint, checkpoint_scores
from benches.zh_en.exact import IDENTITY
from benches.zh_en.gdig_run import against_exact, chosen, swept
from benches.zh_en.retrain import Retraining, best
from benches.zh_en.variants import all_scores, auroc_with_error, reductions, share_clean
from tests.support.bm25 import Bm25

Checkpoints = dict[tuple[str, int], Checkpoint]
MAIN = ("small, clean", 4)
RUN_SEEDS = 64
DRAWS = 20


CHIEF = ("mean influence", "agreement", "mean / spread over seeds", "cosine to each seed, mean", "low loss")
OTHERS = ("loss and cosine", "BM25")
RUNS: dict[str, dict[str, Any]] = {
    "gdig": {},
    "gdig, tau 1": {"method": "agreement", "tau": 1.0},
    "gdig --method diverse": {"method": "diverse"},
    "gdig --method tagcos": {"method": "tagcos"},
}
"""Chosen by gdig itself, with these options."""


@dataclass(frozen=True)
class Trial:
    """Training on selections: the checkpoint that scores, the share of the pool, and whether the baselines take part.
    Training always starts from the main checkpoint."""

    scorer: tuple[str, int]
    budget: float
    everything: bool = False


class Evidence:
    """What the experiments share.

    Args:
        steps: finished ones. rows: files by part. n_clean: seeds that are clean; those after them are spoiled copies.
    """

    def __init__(self, steps: Steps, rows: dict[str, Path], checkpoints: Checkpoints, n_clean: int) -> None:
        self.steps, self.rows, self.checkpoints = steps, rows, checkpoints
        self.clean_seeds = np.arange(n_clean)
        self.pool, self.seeds = _read(rows["candidates"]), _read(rows["seeds"])
        self.kinds = np.array([row["corruption"] for row in self.pool])
        self.bm25 = self._bm25()

    def exact(self, arm: str, epoch: int) -> dict[str, np.ndarray]:
        """Exact scores by a checkpoint."""
        return checkpoint_scores(self.steps, _arm(arm), self.checkpoints[arm, epoch], self.rows)

    def scores(self, arm: str, epoch: int) -> dict[str, np.ndarray]:
        """Every score of the pool by a checkpoint, and those that need no model."""
        scores = all_scores(self.exact(arm, epoch), self.clean_seeds, self._before(arm, epoch))
        rng = np.random.default_rng(0)
        return {**scores, "BM25": self.bm25, "random": rng.random(len(self.kinds))}

    def competence(self) -> dict[str, Any]:
        """By checkpoint: its losses, each score's AUROC and lead over the loss, and its clean share among the best."""
        table = {}
        for arm, epoch in self.checkpoints:
            exact, scores = self.exact(arm, epoch), self.scores(arm, epoch)
            checkpoint = self.checkpoints[arm, epoch]
            clean = self.kinds == "clean"
            table[checkpoint.name] = {
                "held loss": checkpoint.held,
                "loss of clean rows": float(exact["loss"][clean].mean()),
                "loss of spoiled rows": float(exact["loss"][~clean].mean()),
                "auroc": {
                    name: auroc_with_error(score, self.kinds, scores["low loss"]) for name, score in scores.items()
                },
                "clean among the best 20%": {name: share_clean(s, self.kinds, 0.2) for name, s in scores.items()},
                "lengths": failures.by_length(scores, self.kinds, exact["target tokens"]),
                "signs": failures.signs(exact, self.clean_seeds),
            }
        return table

    def inverses(self) -> dict[str, Any]:
        """By checkpoint and inverse Hessian: AUROC of each way to reduce the influence to one score."""
        table: dict[str, Any] = {}
        for arm in ARMS:
            for epoch in (e for e in arm.all_metrics if (arm.name, e) in self.checkpoints):
                exact = self.exact(arm.name, epoch)
                table[self.checkpoints[arm.name, epoch].name] = {
                    metric.name: {
                        name: auroc_with_error(score, self.kinds)
                        for name, score in reductions(
                            exact[f"influence {metric.name}"][:, self.clean_seeds],
                            exact[f"length {metric.name}"],
                            exact[f"length {IDENTITY.name}"],
                            exact[f"seed length {metric.name}"][self.clean_seeds],
                        ).items()
                    }
                    for metric in (IDENTITY, *DAMPINGS)
                }
        return table

    def seed_sets(self, models: list[tuple[str, int]]) -> dict[str, Any]:
        """By checkpoint and kind of seed set: AUROC of the scores, what a run could see, and whether it could tell
        which seeds are spoiled."""
        texts = [f"{row['src_text']} {row['trg_text']}" for row in self.seeds]
        sets = failures.seed_sets(texts, len(self.clean_seeds), DRAWS, np.random.default_rng(0))
        table = {}
        for arm, epoch in models:
            exact = self.exact(arm, epoch)
            noisy = {
                name: members
                for name, members in sets.items()
                if "spoiled" in name and not name.endswith(" 0% spoiled")
            }
            separations = {
                name: [failures.finds_noisy_seeds(exact, len(self.clean_seeds), seeds) for seeds in members]
                for name, members in noisy.items()
            }
            table[self.checkpoints[arm, epoch].name] = {
                "scores": failures.seed_failures(exact, self.kinds, sets),
                "spoiled seeds told from clean ones": {
                    name: {key: float(np.mean([separation[key] for separation in many])) for key in many[0]}
                    for name, many in separations.items()
                },
            }
        return table

    def command(self) -> dict[str, Any]:
        """gdig's own run on the main checkpoint, beside the exact scores."""
        run = swept(self.steps, self.checkpoints[MAIN], self.rows, RUN_SEEDS)
        return against_exact(run, self.exact(*MAIN), self.kinds, RUN_SEEDS)

    def selections(self, training: Retraining, trials: Sequence[Trial], repeats: int = 3) -> dict[str, Any]:
        """By trial: what the rows that each method chooses are worth."""
        table: dict[str, Any] = {}
        for trial in trials:
            scores, n = self.scores(*trial.scorer), round(trial.budget * len(self.kinds))
            names = CHIEF + (OTHERS if trial.everything else ())
            choices = {name: [best(scores[name], n, random_seed) for random_seed in range(repeats)] for name in names}
            rng = np.random.default_rng(1)
            choices["random"] = [rng.choice(len(self.kinds), n, replace=False) for _ in range(repeats)]
            run = swept(self.steps, self.checkpoints[trial.scorer], self.rows, RUN_SEEDS)
            choices |= {name: chosen(run, options, n, repeats) for name, options in RUNS.items()}
            if trial.everything:
                clean = np.flatnonzero(self.kinds == "clean")
                choices["random, clean rows alone"] = [rng.choice(clean, n, replace=False) for _ in range(repeats)]
                choices["the whole pool"] = [np.arange(len(self.kinds))] * repeats
            start, scorer = self.checkpoints[MAIN], self.checkpoints[trial.scorer]
            name = f"scored by: {scorer.name}; trained from: {start.name}; {trial.budget:.0%}"
            table[name] = training.compare(start, choices, self.kinds)
        return table

    def _before(self, arm: str, epoch: int) -> dict[str, np.ndarray] | None:
        """What the checkpoint before this one in its run found, or the one it started from."""
        earlier = [e for a, e in self.checkpoints if a == arm and e < epoch]
        if earlier:
            return self.exact(arm, max(earlier))
        start = _arm(arm).start
        return self.exact(*start) if start else None

    def _bm25(self) -> np.ndarray:
        """Mean over the clean seeds of each row's BM25 score, with the seed as the query, target and all."""
        index = Bm25([f"{row['src_text']} {row['trg_text']}" for row in self.pool])
        clean = [self.seeds[int(s)] for s in self.clean_seeds]
        return np.mean([index.scores(f"{row['src_text']} {row['trg_text']}") for row in clean], axis=0)


def _arm(name: str) -> Arm:
    return next(arm for arm in ARMS if arm.name == name)


def _read(file: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
