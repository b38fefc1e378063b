"""A deeper model of the generated language: what some of the layers predict of trainings on halves of its pool."""

from __future__ import annotations

from typing import Any

import numpy as np

from benches.generated_language.language import CORRUPTIONS
from benches.generated_language.lds import Datamodel, Interval, halves
from benches.generated_language.scores import Variant, influence
from benches.generated_language.world import Size, World
from benches.layer_share_parts.choices import CHOICES, WHOLE
from benches.shared.auroc import auroc
from benches.shared.steps import Steps

SIZE = Size(
    base=1500, pool=800, seeds=50, test=200, base_epochs=6, epochs=6, subsets=32, repeats=1, layers=8,
)  # fmt: skip
FIT_TOKENS = tuple(64 << i for i in range(7))
"""Tokens of the samples that are compared with the whole pool: half to 32 times the widest factor."""


def generated(steps: Steps, random_seed: int) -> dict[str, Any]:
    """Linear datamodelling score of each seed, and AUROC of clean rows, by choice of layers and by sample."""
    world = World(steps, SIZE, random_seed)
    members = halves(SIZE.pool, SIZE.subsets, random_seed)
    rows = [np.flatnonzero(m) for m in members]
    outcomes = world.outcomes("halves", rows, [1000 + i for i in range(SIZE.subsets)])
    each = Datamodel(members, -outcomes["seeds"], random_seed)
    spoiled = np.isin(world.column("pool", "fault"), CORRUPTIONS)
    variants = {text: Variant(f"layers {text}".replace(":", " "), {"layers": text}) for text in CHOICES}
    variants |= {
        f"{WHOLE}, {n} tokens": Variant(f"all, {n} tokens", {"layers": WHOLE, "fit_tokens": n}) for n in FIT_TOKENS
    }
    whole = influence(world, variants[WHOLE])["influence"]
    reference, resampled = each.correlations(whole)
    results = {}
    for name, variant in variants.items():
        x = influence(world, variant)["influence"]
        values, again = each.correlations(x)
        mean, agreement = x.astype(np.float64).mean(1), (x > 0).mean(1)
        results[name] = {
            "lds": Interval.of(values.mean(), again).rounded(),
            "against all layers": Interval.of(values.mean() - reference.mean(), again - resampled).rounded(),
            "auroc of mean": round(auroc(mean[~spoiled], mean[spoiled]), 4),
            "auroc of agreement": round(auroc(agreement[~spoiled], agreement[spoiled]), 4),
        }
    tokens = sum(map(len, world.examples["pool"])) / SIZE.pool
    return {"blocks": SIZE.layers, "tokens of a row": round(tokens, 1), "choices": results}
