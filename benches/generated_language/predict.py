"""Do the scores predict the effect of training on a part of the pool? Models are retrained on halves of the pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benches.generated_language.language import CORRUPTIONS
from benches.generated_language.lds import Datamodel, Interval, Ranked, halves
from benches.generated_language.scores import DEFAULT, baselines, influence, reductions, wanted
from benches.generated_language.world import World
from benches.shared.auroc import auroc


def datamodels(world: World) -> dict[str, Any]:
    """Linear datamodelling scores of every method: per seed, and of the mean loss of the seeds and of the test rows.

    auroc: the chance that a sound row's score is higher than a spoiled one's.
    """
    size = world.size
    members = halves(size.pool, size.subsets, world.random_seed)
    runs = []
    for repeat in range(size.repeats):
        rows, random_seeds = (
            [np.flatnonzero(m) for m in members],
            [1000 * (repeat + 1) + i for i in range(size.subsets)],
        )
        runs.append(world.outcomes(f"halves, repetition {repeat}", rows, random_seeds))
    loss = {split: np.mean([run[split] for run in runs], 0) for split in ("seeds", "test")}
    each = Datamodel(members, -loss["seeds"], world.random_seed)
    pooled = {split: Datamodel(members, -loss[split].mean(1, keepdims=True), world.random_seed) for split in loss}

    spoiled = np.isin(world.column("pool", "fault"), CORRUPTIONS)
    reference, resampled = each.correlations(influence(world, DEFAULT)["influence"])

    def judged(scores: np.ndarray) -> dict[str, Any]:
        values, again = each.correlations(scores)
        skills = world.column("seeds", "skill")
        mean = scores if scores.ndim == 1 else scores.astype(np.float64).mean(1)
        return {
            "lds": Interval.of(values.mean(), again).rounded(),
            "against the default": Interval.of(values.mean() - reference.mean(), again - resampled).rounded(),
            "by skill": {
                str(skill): round(float(values[skills == skill].mean()), 3) for skill in dict.fromkeys(skills)
            },
            "mean of seeds": pooled["seeds"].score(mean).rounded(),
            "mean of test": pooled["test"].score(mean).rounded(),
            "auroc": round(auroc(mean[~spoiled], mean[spoiled]), 4),
        }

    methods: dict[str, Any] = {}
    for variant in wanted(world):
        scores = influence(world, variant)
        methods[variant.name] = judged(scores["influence"])
        if variant.name in COSINES and np.isfinite(scores["length"]).all():
            methods[f"{variant.name}, cosine"] = judged(scores["influence"] / scores["length"][:, None])
    methods |= {name: judged(scores) for name, scores in baselines(world).items()}
    ways = {}
    for variant in wanted(world, REDUCED):
        ways[variant.name] = {
            way: {split: pooled[split].score(score).rounded() for split in pooled}
            | {"auroc": round(auroc(score[~spoiled], score[spoiled]), 4)}
            for way, score in reductions(influence(world, variant)).items()
        }
    return {
        "subsets": size.subsets,
        "trainings of each": size.repeats,
        "noise": _noise(members, runs, world) if size.repeats > 1 else None,
        "loss": {split: _spread(loss[split]) for split in loss},
        "methods": methods,
        "ways to make one score": ways,
    }


COSINES = ("identity", "kfac 0.1", "ekfac 0.001", "ekfac 0.01", "ekfac 0.1", "ekfac 1", "ekfac 0.1, all linears")
REDUCED = ("identity", "ekfac 0.01", "ekfac 0.1", "ekfac 1", "ekfac 0.1, all linears")


def _noise(members: np.ndarray, runs: list[dict[str, np.ndarray]], world: World) -> dict[str, Any]:
    """The agreement of two trainings on the same subsets, and the ceiling that it sets for every method.

    The ceiling is the correlation of the mean of R trainings with their expectation, by Spearman and Brown's formula.
    """
    noise: dict[str, Any] = {}
    for name, of in _TARGETS.items():
        first, rest = -of(runs[0]), -np.mean([of(run) for run in runs[1:]], 0)
        values, again = Datamodel(members, first, world.random_seed).compare(Ranked(rest))
        agreement = Interval.of(values.mean(), again)
        r = max(0.0, agreement.value)
        noise[name] = {
            "agreement of two trainings": agreement.rounded(),
            "ceiling": round((len(runs) * r / (1 + (len(runs) - 1) * r)) ** 0.5, 4),
        }
    return noise


_TARGETS: dict[str, Callable[[dict[str, np.ndarray]], np.ndarray]] = {
    "lds": lambda run: run["seeds"],
    "mean of seeds": lambda run: run["seeds"].mean(1, keepdims=True),
    "mean of test": lambda run: run["test"].mean(1, keepdims=True),
}


def _spread(loss: np.ndarray) -> dict[str, float]:
    """Of the mean loss over the subsets."""
    mean = loss.mean(1)
    return {"mean": round(float(mean.mean()), 4), "standard deviation": round(float(mean.std(ddof=1)), 4)}
