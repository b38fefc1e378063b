"""How does a model change if its training leaves out the rows that a method calls best, or worst?"""

from __future__ import annotations

from typing import Any

import numpy as np

from benches.generated_language.lds import RESAMPLES, Interval
from benches.generated_language.scores import DEFAULT, baselines, influence, reductions, wanted
from benches.generated_language.world import World

SHARES = (("best", 0.01), ("best", 0.05), ("best", 0.1), ("worst", 0.1))
METHODS = ("ekfac 0.1", "identity")
WAYS = ("agreement", "steady mean")
BASELINES = ("LESS cosine", "BM25", "low loss")


def counterfactuals(world: World) -> dict[str, Any]:
    """Change of the mean loss of the seeds and of the test rows against removing as many rows at random.

    A method is good if the loss rises without its best rows, and falls without its worst rows. Intervals come from
    resampled rows of the evaluation and resampled random removals.
    """
    size, scores = world.size, row_scores(world)
    order = {name: np.argsort(-score, kind="stable") for name, score in scores.items()}
    every = np.arange(size.pool)
    fault = world.column("pool", "fault")
    spoiled = ~np.isin(fault, ("clean", "duplicate"))
    removals: dict[str, Any] = {}
    for end, share in SHARES:
        count = max(1, round(share * size.pool))
        gone = {name: (o[:count] if end == "best" else o[-count:]) for name, o in order.items()}
        rng = np.random.default_rng([world.random_seed, count])
        drawn = [rng.permutation(size.pool)[:count] for _ in range(size.draws)]
        reference = world.outcomes(
            f"without random {share:g}", [np.setdiff1d(every, rows) for rows in drawn for _ in range(size.runs)],
            list(range(size.draws * size.runs)),
        )  # fmt: skip
        jobs = [np.setdiff1d(every, rows) for rows in gone.values() for _ in range(size.runs)]
        outcomes = world.outcomes(f"without the {end} {share:g}", jobs, list(range(size.runs)) * len(gone))
        table = {}
        for i, (name, rows) in enumerate(gone.items()):
            own = slice(i * size.runs, (i + 1) * size.runs)
            table[name] = {
                split: _difference(outcomes[split][own], reference[split], world.random_seed).rounded()
                for split in ("seeds", "test")
            } | {"spoiled among them": round(float(spoiled[rows].mean()), 4)}
        removals[f"{end} {share:.0%}"] = {
            "rows": count,
            "loss without random rows": {
                split: round(float(reference[split].mean()), 4) for split in ("seeds", "test")
            },
            "methods": table,
        }
    return {"trainings of each": size.runs, "random removals": size.draws, "removed": removals}


def row_scores(world: World) -> dict[str, np.ndarray]:
    """Scores [N] by name: means over the seeds, and gdig's default reduced in other ways."""
    scores = {v.name: influence(world, v)["influence"].astype(np.float64).mean(1) for v in wanted(world, METHODS)}
    ways = reductions(influence(world, DEFAULT))
    scores |= {f"{DEFAULT.name}, {way}": score for way, score in ways.items() if way in WAYS}
    base = baselines(world)
    return scores | {name: base[name].astype(np.float64).reshape(len(base[name]), -1).mean(1) for name in BASELINES}


def _difference(loss: np.ndarray, reference: np.ndarray, random_seed: int) -> Interval:
    """Mean of loss [R, S] minus that of reference [Q, S]; examples, runs and references resampled."""
    rng = np.random.default_rng(random_seed)
    again = [
        loss[rng.integers(0, len(loss), len(loss))][:, chosen].mean()
        - reference[rng.integers(0, len(reference), len(reference))][:, chosen].mean()
        for chosen in rng.integers(0, loss.shape[1], (RESAMPLES, loss.shape[1]))
    ]
    return Interval.of(loss.mean() - reference.mean(), np.array(again))
