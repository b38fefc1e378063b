"""Linear datamodelling score on the pretrained model: do scores predict what trainings on random halves do?

A pool of a target's rows and rows of other tasks is halved at random many times. A model is trained on each half, for
one pass over it. The score of a method for a seed is the rank correlation, over the halves, between the sum of the
rows' scores and the fall of the seed's loss (TRAK, arXiv 2303.14186, section 2). The mean over the seeds is shown.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benches.generated_language.lds import Datamodel, Ranked
from benches.pretrained import signals
from benches.pretrained.collection import Collection
from benches.pretrained.pools import Pool
from benches.pretrained.training import Recipe, Trainer
from benches.pretrained.view import View
from benches.shared.steps import Steps


@dataclass(frozen=True)
class Halves:
    """rows: of the pool that take part. halves: trainings. batch_size: rows in a step, each row once in a training."""

    rows: int = 160
    halves: int = 48
    batch_size: int = 8


def measure(collection: Collection, pool: Pool, steps: Steps, model: Path, halves: Halves) -> dict[str, Any]:
    """The score of each method: mean over the seeds, and the 95 % interval of a bootstrap over halves and seeds."""
    at, masks = draw(collection, pool, halves)
    recipe = replace(Recipe(), steps=len(at) // 2 // halves.batch_size, batch_size=halves.batch_size)
    trainer = Trainer(model, collection.states, collection.examples, recipe)
    rows, seeds = [np.sort(pool.rows[at[mask]]) for mask in masks], collection.where("seed")[pool.seeds]
    falls = _falls(trainer, steps, pool.name, rows, seeds, 0)
    datamodel = Datamodel(masks, falls)
    facts: dict[str, Any] = {"pool": pool.name, **asdict(halves), "seeds": len(seeds), "scores": {}}
    for name, score in scores(collection, pool).items():
        interval = datamodel.score(score[at])
        facts["scores"][name] = {"lds": interval.value, "interval": [interval.low, interval.high]}
    again, _ = datamodel.compare(Ranked(_falls(trainer, steps, pool.name, rows, seeds, 1000)))
    # The highest score that can be had: the root of the correlation of two trainings on the same halves.
    facts["ceiling"] = float(np.sqrt(max(0.0, again.mean())))
    return facts


def draw(collection: Collection, pool: Pool, halves: Halves) -> tuple[np.ndarray, np.ndarray]:
    """Places of the rows in the pool [n], and which half has which: bool [halves, n]."""
    rng = np.random.default_rng(7)
    target = np.flatnonzero([collection.rows[i].task in pool.targets for i in pool.rows])
    others = np.setdiff1d(np.arange(len(pool.rows)), target)
    at = np.sort(np.r_[target, rng.choice(others, halves.rows - len(target), replace=False)])
    return at, np.stack([rng.permutation(len(at)) < len(at) // 2 for _ in range(halves.halves)])


def _falls(
    trainer: Trainer, steps: Steps, pool: str, halves: list[np.ndarray], seeds: np.ndarray, start: int
) -> np.ndarray:
    """How much each training lowers each seed's loss, [halves, S]; trainings with another `start` differ by chance."""
    before = trainer.untrained(seeds)
    falls = []
    for number, rows in enumerate(halves, start):
        asked = [rows.tolist(), seeds.tolist(), number, trainer.asked]
        make = lambda rows=rows, number=number: trainer.outcome(rows, seeds, number).tolist()  # noqa: E731
        falls.append(before - np.array(steps.facts(f"half of {pool}", asked, make)))
    return np.stack(falls)


def scores(collection: Collection, pool: Pool) -> dict[str, np.ndarray]:
    """Scores [N, S] of each method; higher means that the row should help the seed more."""
    view = View.of(collection, pool)

    def cut(name: str) -> np.ndarray:
        return collection.signals[f"influence {name}"][pool.at][:, pool.seeds].astype(np.float64)

    return {
        "EK-FAC": view.influence,
        **{name: cut(name) for name in signals.VARIANTS},
        "EK-FAC by the row's length": view.cosine,
        "LESS (cosine of sketches)": view.sketch_cosine,
        "RDS+": view.hidden_cosine,
        "BM25": view.bm25.astype(np.float64),
        "low loss": np.repeat(-view.loss[:, None].astype(np.float64), len(pool.seeds), 1),
    }
