"""What the influence by some of the layers is worth: agreement with all layers, and rows told apart."""

from __future__ import annotations

from typing import Any

import numpy as np

from benches.layer_share_parts.influence import Drawn
from benches.pretrained.order import blend
from benches.shared.auroc import auroc


def quality(by_layer: dict[str, np.ndarray], mask: np.ndarray, drawn: Drawn, reference: np.ndarray) -> dict[str, Any]:
    """Judge the influence of some layers, summed.

    Args:
        by_layer: influence [K, N, S] and square [K, N].
        mask: bool [K], the layers.
        drawn: the rows and seeds.
        reference: influence [N, S] that it is compared with.

    Returns:
        Of influence: mean and least correlation over the seeds, Pearson and Spearman. Of the blended relevance, for the
        seeds of each task: the chance that a clean row of the task is above a row of another task, and above a spoiled
        row of its own, as means over the tasks; the share of clean rows of the task among as many best rows.
    """
    influence = by_layer["influence"][mask].sum(0, dtype=np.float64)
    length = np.sqrt(by_layer["square"][mask].sum(0))
    x = blend(influence / np.maximum(length, 1e-30)[:, None])
    pearson = np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(influence.T, reference.T, strict=True)])
    spearman = np.array(
        [np.corrcoef(_ranks(a), _ranks(b))[0, 1] for a, b in zip(influence.T, reference.T, strict=True)]
    )
    return {
        "pearson": _summary(pearson),
        "spearman": _summary(spearman),
        **_told_apart(x, drawn),
        "influence alone": _told_apart(influence, drawn),
    }


def _told_apart(x: np.ndarray, drawn: Drawn) -> dict[str, Any]:
    figures: dict[str, list[float]] = {"auroc_task": [], "auroc_clean": [], "share_clean": [], "auroc_seed": []}
    for task in np.unique(drawn.seed_task):
        own_seeds = drawn.seed_task == task
        own, good = drawn.task == task, (drawn.task == task) & drawn.clean
        mean = x[:, own_seeds].mean(1)
        figures["auroc_task"].append(auroc(mean[good], mean[~own]))
        figures["auroc_clean"].append(auroc(mean[good], mean[own & ~drawn.clean]))
        figures["share_clean"].append(float(good[np.argsort(-mean, kind="stable")[: good.sum()]].mean()))
        figures["auroc_seed"] += [auroc(x[good, s], x[~own, s]) for s in np.flatnonzero(own_seeds)]
    return {name: round(float(np.mean(values)), 4) for name, values in figures.items()}


def _summary(values: np.ndarray) -> list[float]:
    """Mean, and the least of the seeds."""
    return [round(float(values.mean()), 4), round(float(values.min()), 4)]


def _ranks(x: np.ndarray) -> np.ndarray:
    return x.argsort(kind="stable").argsort(kind="stable").astype(np.float64)
