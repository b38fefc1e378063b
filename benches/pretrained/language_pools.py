"""P2 on the generated language: a tiny model tuned on its pool, 20 % of it spoiled and 10 % nearly repeated."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benches.generated_language.language import CORRUPTIONS
from benches.generated_language.scores import run_options
from benches.generated_language.world import TUNE, Size, World
from benches.pretrained import signals
from benches.pretrained.rules import RULES
from benches.pretrained.view import View
from benches.shared.steps import Steps
from gdig.config.config import Config
from gdig.model.load import load_model
from tests.support.bm25 import Bm25

SIZE = Size(base=1500, pool=1000, seeds=50, test=200, base_epochs=6, epochs=6)
EPOCHS = 3
"""Every model trains as many steps as these epochs of the whole pool take."""


class GeneratedPool:
    """A language, its pool, and the models that are trained on choices from it."""

    def __init__(self, steps: Steps, random_seed: int) -> None:
        self.world = World(steps, SIZE, random_seed)
        world = self.world
        fault = world.column("pool", "fault")
        self.good, self.family = ~np.isin(fault, CORRUPTIONS), world.column("pool", "family")
        self.skill = world.column("pool", "skill")

    def view(self) -> View:
        """The pool's signals, from the model that was tuned on it."""
        world = self.world
        path = world.checkpoint("pool", world.full)
        config = Config.build(run_options(world, path) | {"run_path": "none"})
        model = load_model(config)
        rows, seeds = world.examples["pool"], world.examples["seeds"]

        def make() -> dict[str, np.ndarray]:
            arrays = signals.curvature(model, config, rows)
            return {
                **signals.exact_influence(model, config, arrays, rows, seeds),
                **signals.sketches(model, config, [*rows, *seeds]),
                **signals.fisher_sketches(model, config, arrays, rows),
            }

        s = world.steps.arrays("signals, sketches in Fisher space", [world.asked], make)
        texts = [row["prompt"] + row["completion"] for row in world.corpus.pool]
        bm25, n = Bm25(texts), len(rows)
        words = np.stack([bm25.scores(row["prompt"] + row["completion"]) for row in world.corpus.seeds], 1)
        skills = world.column("seeds", "skill")
        return View(
            s["influence 0.1"].astype(np.float64), np.sqrt(s["square 0.1"]), s["gram 0.1"],
            signals.unit(s["sketch"][:n]), np.linalg.norm(s["sketch"][:n], axis=1), 
            signals.unit(s["fisher"]), np.linalg.norm(s["fisher"], axis=1), signals.unit(s["sketch"][n:]),
            signals.unit(s["hidden"][:n]), signals.unit(s["hidden"][n:]),
            words, s["loss"], np.zeros(len(skills), int), self.skill, np.arange(n),
        )  # fmt: skip

    def table(self, rules: list[str], budgets: tuple[float, ...], random_seeds: tuple[int, ...]) -> dict[str, Any]:
        """Held-out loss by budget and rule, one training for each random seed: [trainings, test rows]."""
        world, view = self.world, self.view()
        n_steps = round(EPOCHS * SIZE.pool / TUNE.batch_size)
        results: dict[str, Any] = {}
        for budget in budgets:
            k = round(budget * SIZE.pool)
            jobs = {rule: [np.asarray(RULES[rule](view, k, r)) for r in random_seeds] for rule in rules}
            jobs["clean rows of the target, known"] = [
                np.random.default_rng(r).permutation(np.flatnonzero(self.good))[:k] for r in random_seeds
            ]
            rows = [choice for choices in jobs.values() for choice in choices]
            seeds = [100 + r for _ in jobs for r in random_seeds]
            test = world.outcomes(f"trained on {budget:g}", rows, seeds, n_steps)["test"]
            results[f"{budget:g}"] = {
                rule: {
                    "loss": test[i * len(random_seeds) : (i + 1) * len(random_seeds)].astype(float).round(5).tolist(),
                    "good": round(float(np.mean([self.good[c].mean() for c in choices])), 4),
                    "repeated": round(
                        float(np.mean([1 - len(np.unique(self.family[c])) / len(c) for c in choices])), 4
                    ),
                }
                for i, (rule, choices) in enumerate(jobs.items())
            }
        return results


def load(steps: Steps, random_seed: int) -> GeneratedPool:
    """The language of a random seed; torch takes one thread, since its models are tiny."""
    torch.set_num_threads(1)
    return GeneratedPool(steps, random_seed)
