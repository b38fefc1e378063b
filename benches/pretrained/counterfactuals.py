"""Leave out the rows that a score calls best, and train on the rest: how much worse does the target become?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benches.pretrained.collection import Collection
from benches.pretrained.pools import Pool
from benches.pretrained.pretrained_lds import Halves, draw, scores
from benches.pretrained.training import Recipe, Trainer
from benches.shared.steps import Steps

SHARE = 0.25
"""Of the rows, those that are left out."""
RANDOM, NONE = "random rows", "nothing"


def measure(
    collection: Collection, pool: Pool, steps: Steps, model: Path, random_seeds: Sequence[int]
) -> dict[str, Any]:
    """Loss of the held-out rows [trainings, rows] after one pass over what is left, by what was left out."""
    halves = Halves()
    at, _ = draw(collection, pool, halves)
    n = round(SHARE * len(at))
    recipe = replace(Recipe(), steps=(len(at) - n) // halves.batch_size, batch_size=halves.batch_size)
    trainer = Trainer(model, collection.states, collection.examples, recipe)
    left_out = {
        name: [np.argsort(-score[at].mean(1), kind="stable")[:n]] for name, score in scores(collection, pool).items()
    }
    left_out[RANDOM] = [np.random.default_rng(r).permutation(len(at))[:n] for r in random_seeds]
    left_out[NONE] = [np.empty(0, np.int64)]
    facts: dict[str, Any] = {"rows": len(at), "left out": n, "losses": {}}
    for name, choices in left_out.items():
        losses = []
        for number, random_seed in enumerate(random_seeds):
            rest = np.delete(np.arange(len(at)), choices[number % len(choices)])
            rows = np.sort(pool.rows[at[rest]])
            asked = [rows.tolist(), pool.held.tolist(), random_seed, trainer.asked]
            train = lambda rows=rows, seed=random_seed: trainer.outcome(rows, pool.held, seed).tolist()  # noqa: E731
            losses.append(steps.facts(f"without some of {pool.name}", asked, train))
        facts["losses"][name] = np.round(losses, 5).tolist()
    return facts
