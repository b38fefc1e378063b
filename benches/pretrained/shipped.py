"""The package's own choice (`gdig.selection.methods.turns`, `gdig.selection.blend`) in terms of a pool's signals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gdig.config.config import Config
from gdig.selection.methods.gdig import KNOWN, OF_ONE_KIND

if TYPE_CHECKING:
    from benches.pretrained.rules import View


def relevance(
    influence: np.ndarray, lengths: np.ndarray, labels: np.ndarray, repeats: np.ndarray, discount: float
) -> np.ndarray:
    """The blended relevance [N, S] of `gdig.selection.blend`; repeats are last.

    Args:
        influence: [N, S]. lengths: [N], of sketches. labels: [N], clusters. repeats: bool [N], rows that occur before.
        discount: what a row loses for each doubling of its place in its cluster.
    """
    x = influence / np.maximum(lengths, 1e-30)[:, None]
    x = (x - x.mean(0)) / np.maximum(x.std(0, ddof=1), 1e-30)
    mean = x.mean(1)
    places, seen = np.ones(len(x)), dict.fromkeys(np.unique(labels).tolist(), 0)
    for row in np.argsort(-mean, kind="stable"):
        if not repeats[row]:
            seen[labels[row]] += 1
            places[row] = seen[labels[row]]
    own = mean / mean.std(ddof=1) - discount * np.log2(places)
    return np.where(repeats[:, None], -1e30, x + own[:, None])


def shipped(view: View, k: int, random_seed: int, space: str, discount: float = 0.25) -> np.ndarray:
    """What `gdig` chooses: by agreement where the pool's shift is small and all of it matters, by turns elsewhere.

    Lengths and clusters are those of raw or of Fisher sketches.
    """
    from benches.pretrained.rules import by_turns, even_draw, reaching

    shift = np.median(np.abs(view.influence.mean(0)) / view.influence.std(0, ddof=1))
    x = view.influence / np.maximum(view.fisher_length if space == "fisher" else view.sketch_length, 1e-30)[:, None]
    r = np.sqrt((x * x / (x * x).mean(0)).mean(1))
    if shift < KNOWN and r.mean() ** 2 / (r * r).mean() >= OF_ONE_KIND:
        eligible = reaching((view.influence > 0).mean(1), Config.tau, k)
        return even_draw(view, eligible, k, random_seed, space)
    lengths = view.fisher_length if space == "fisher" else view.sketch_length
    x = relevance(view.influence, lengths, view.labels(k, random_seed, space), view.repeats, discount)
    return by_turns(x, k, view.task_of_seed)
