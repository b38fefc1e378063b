"""What decides: the inverse of the curvature, the number of seeds, and the layers, on the P1 pools.

Every variant chooses by gdig's rule without clusters (`blended cosine, by turns`), from whole gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from benches.pretrained import signals
from benches.pretrained.collection import Collection
from benches.pretrained.order import blend, by_turns
from benches.pretrained.pools import Pool
from benches.pretrained.pretrained_model import UPPER
from benches.pretrained.training import Trainer
from benches.pretrained.trials import describe
from benches.pretrained.view import View
from benches.shared.steps import Steps

BUDGET = 0.1


def views(collection: Collection, pool: Pool) -> Iterator[tuple[str, View]]:
    """The signals of each variant, by its name."""
    yield "the defaults", View.of(collection, pool)
    for name in signals.VARIANTS:
        yield name, View.of(collection, pool, f"influence {name}", f"square {name}")
    for block in range(UPPER):
        name = f"of block {block}"
        yield f"MLP {name} alone", View.of(collection, pool, f"influence 0.1 {name}", f"square 0.1 {name}")
    for n in (4, 8, 16):
        yield f"{n} of {len(pool.seeds)} seeds", View.of(collection, replace(pool, seeds=pool.seeds[:n]))


def measure(
    collection: Collection, pool: Pool, steps: Steps, trainer: Trainer, random_seeds: tuple[int, ...]
) -> dict[str, Any]:
    """Held-out loss [trainings, rows] and the share of good rows, by variant."""
    facts: dict[str, Any] = {}
    k = round(BUDGET * len(pool.rows))
    for name, view in views(collection, pool):
        chosen = by_turns(blend(view.cosine), k, view.task_of_seed)
        rows = np.sort(pool.rows[chosen])
        losses = []
        for random_seed in random_seeds:
            asked = [rows.tolist(), pool.held.tolist(), random_seed, trainer.asked]
            make = lambda rows=rows, seed=random_seed: trainer.outcome(rows, pool.held, seed).tolist()  # noqa: E731
            losses.append(steps.facts(f"training {pool.name}", asked, make))
        facts[name] = {"loss": np.round(losses, 5).tolist(), **describe(pool, chosen)}
    return facts
