"""The tables of `benches.evidence_pretrained`: losses with intervals, and what was chosen."""

from __future__ import annotations

from typing import Any

import numpy as np

from benches.shared.tables import markdown

ORACLE = "clean rows of the target, known"
BEFORE = "before training"
SHOWN = (
    "random",
    "gdig",
    "BM25, by turns",
    "RDS+",
    "agreement, tau 0.55",
    "top, mean",
    "random, balanced by source",
    "diverse",
    "loss",
    "sketch cosine, by turns",
    "blended cosine, by turns",
)
"""The rules that are trained on first, at every budget. The sketch cosine is LESS's, without the optimizer's state."""
LATER = (
    "gdig, raw sketches",
    "cosine, by turns",
    "top, relative cosine",
    "per length, blended, by turns",
    "per length, by turns",
    "top, relative per length",
    "relative cosine votes",
    "relative votes",
    "relative cosine, discount 0.5",
    "relative cosine, by squared mass",
    "agreement, tau 1",
    "top, steady",
    "bids",
    "gist",
    "RDS+, no repeats",
    "blended cosine, by turns, no repeats",
    "blended cosine, by turns, clusters 0.5",
    "relative cosine, clusters of 1.5 budgets",
)
"""The rules that are trained on last; the record has what all rules choose."""
RESAMPLES = 2000


def interval(losses: np.ndarray, reference: np.ndarray, random_seed: int = 0) -> tuple[float, float, float]:
    """Mean difference of the losses [trainings, rows] from a reference of the same rows, and the 95 % interval of a
    bootstrap over the rows and, where there are several, the trainings."""
    rng = np.random.default_rng(random_seed)
    values = []
    for chosen in rng.integers(0, losses.shape[1], (RESAMPLES, losses.shape[1])):
        own = losses[rng.integers(0, len(losses), len(losses))][:, chosen].mean()
        values.append(own - reference[rng.integers(0, len(reference), len(reference))][:, chosen].mean())
    low, high = np.percentile(values, (2.5, 97.5))
    return float(losses.mean() - reference.mean()), float(low), float(high)


def tables(record: dict[str, Any]) -> str:
    """Every budget's table: the held-out loss of each rule in each pool, and the share of clean rows of the target."""
    pools = record["pools"]
    budgets = sorted({b for pool in pools.values() for b in pool["outcomes"]}, key=float)
    texts = []
    for budget in budgets:
        shown = {name: pool["outcomes"][budget] for name, pool in pools.items() if budget in pool["outcomes"]}
        rules = list(dict.fromkeys(rule for own in shown.values() for rule in own))
        rows = [[rule, *(_cell(own.get(rule)) for own in shown.values())] for rule in rules]
        texts.append(f"budget {float(budget):.0%}: loss, share of good rows\n" + markdown(["rule", *shown], rows))
    return "\n\n".join(texts)


def _cell(result: dict[str, Any] | None) -> str:
    if result is None:
        return ""
    loss = f"{np.mean(result['loss']):.3f}"
    return f"{loss}, {result['good']:.0%}" if "good" in result else loss
