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

from benches.pretrained import signals
from benches.pretrained.collection import Collection
from benches.pretrained.pools import Pool
from benches.pretrained.rules import View
from benches.pretrained.training import Recipe, Trainer
from benches.shared.steps import Steps

RESAMPLES = 1000


@dataclass(frozen=True)
class Halves:
    """rows: of the pool that take part. halves: trainings. batch_size: rows in a step, each row once in a training."""

    rows: int = 160
    halves: int = 48
    batch_size: int = 8


def measure(collection: Collection, pool: Pool, steps: Steps, model: Path, halves: Halves) -> dict[str, Any]:
    """The score of each method: mean over the seeds, and the 95 % interval of a bootstrap over the halves."""
    at, masks, falls = _trainings(collection, pool, steps, model, halves)
    view = View.of(collection, pool)
    scores = _scores(collection, pool, view)
    sums = {name: masks.astype(np.float64) @ score[at] for name, score in scores.items()}
    rng = np.random.default_rng(0)
    draws = [rng.integers(0, halves.halves, halves.halves) for _ in range(RESAMPLES)]
    facts: dict[str, Any] = {"pool": pool.name, **asdict(halves), "seeds": len(pool.seeds), "scores": {}}
    for name, own in sums.items():
        values = [_mean_correlation(own[rows], falls[rows]) for rows in draws]
        low, high = np.percentile(values, (2.5, 97.5))
        facts["scores"][name] = {"lds": _mean_correlation(own, falls), "interval": [float(low), float(high)]}
    facts["ceiling"] = _reliability(collection, pool, steps, model, halves, at, masks, falls)
    return facts


def _trainings(
    collection: Collection, pool: Pool, steps: Steps, model: Path, halves: Halves
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places of the rows in the pool [n], which half has which [halves, n], and the fall of each seed's loss."""
    rng = np.random.default_rng(7)
    target = np.flatnonzero([collection.rows[i].task in pool.targets for i in pool.rows])
    others = np.setdiff1d(np.arange(len(pool.rows)), target)
    at = np.sort(np.r_[target, rng.choice(others, halves.rows - len(target), replace=False)])
    masks = np.stack([rng.permutation(len(at)) < len(at) // 2 for _ in range(halves.halves)])
    return at, masks, _falls(collection, pool, steps, model, halves, at, masks, 0)


def _falls(
    collection: Collection,
    pool: Pool,
    steps: Steps,
    model: Path,
    halves: Halves,
    at: np.ndarray,
    masks: np.ndarray,
    start: int,
) -> np.ndarray:
    """How much each training lowers each seed's loss, [halves, S]; trainings with another `start` differ by chance."""
    recipe = replace(Recipe(), steps=len(at) // 2 // halves.batch_size, batch_size=halves.batch_size)
    trainer = Trainer(model, collection.states, collection.examples, recipe)
    seeds = collection.where("seed")[pool.seeds]
    before = trainer.untrained(seeds)
    falls = []
    for number, mask in enumerate(masks):
        rows = np.sort(pool.rows[at[mask]])
        asked = [rows.tolist(), seeds.tolist(), start + number, trainer.asked]
        make = lambda rows=rows, number=number: trainer.outcome(rows, seeds, start + number).tolist()  # noqa: E731
        falls.append(before - np.array(steps.facts(f"half of {pool.name}", asked, make)))
    return np.stack(falls)


def _scores(collection: Collection, pool: Pool, view: View) -> dict[str, np.ndarray]:
    """Scores [N, S] of each method; higher means that the row should help the seed more."""

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


def _reliability(
    collection: Collection,
    pool: Pool,
    steps: Steps,
    model: Path,
    halves: Halves,
    at: np.ndarray,
    masks: np.ndarray,
    falls: np.ndarray,
) -> float:
    """The highest score that can be had: the root of the correlation of two trainings on the same halves."""
    again = _falls(collection, pool, steps, model, halves, at, masks, 1000)
    return float(np.sqrt(max(0.0, _mean_correlation(again, falls))))


def _mean_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Mean over the columns of Spearman's rank correlation."""
    a, b = (v.argsort(0, kind="stable").argsort(0, kind="stable").astype(np.float64) for v in (x, y))
    a, b = a - a.mean(0), b - b.mean(0)
    return float(((a * b).sum(0) / np.sqrt((a * a).sum(0) * (b * b).sum(0))).mean())
