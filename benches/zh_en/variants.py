"""Ways to make one score of a row out of its influence on each seed; and how well a score tells clean from spoiled."""

from __future__ import annotations

from typing import Any

import numpy as np

from benches.shared.auroc import auroc
from benches.zh_en.exact import DEFAULT, IDENTITY
from benches.zh_en.pool import CORRUPTIONS
from gdig.philox import stream_key

RESAMPLES = 400
"""Of the rows, for intervals."""


def ranks(x: np.ndarray) -> np.ndarray:
    """Ranks scaled to 0..1, ties in the middle of their places."""
    _, place, counts = np.unique(x, return_inverse=True, return_counts=True)
    ends = counts.cumsum()
    return ((ends - counts + ends - 1) / 2)[place] / max(1, len(x) - 1)


def bounded_mean(influence: np.ndarray) -> np.ndarray:
    """Mean over the seeds [N] of influence [N, S] in units of twice its row's median size, bounded to -1..1: between
    agreement, which it is for small bounds, and the mean, which no seed then can sway by itself."""
    size = 2 * np.median(np.abs(influence), 1, keepdims=True)
    return np.clip(influence / np.where(size > 0, size, 1), -1, 1).mean(1)


def reductions(
    influence: np.ndarray, length: np.ndarray, raw_length: np.ndarray, seed_length: np.ndarray
) -> dict[str, np.ndarray]:
    """Scores [N] from influence [N, S], by name.

    Args:
        influence: on each seed.
        length: [N], of the rows' gradients in the norm of the same inverse Hessian; raw_length: in the plain one.
        seed_length: [S], of the seeds' gradients in the norm of the inverse Hessian.
    """
    x = influence.astype(np.float64)
    mean = x.mean(1)
    per_seed = x / x.std(0)
    return {
        "mean influence": mean,
        "agreement": (x > 0).mean(1),
        "mean / spread over seeds": mean / x.std(1),
        "mean, seeds to one scale": per_seed.mean(1),
        "bounded mean": bounded_mean(x),
        "mean / length": mean / raw_length,
        "mean / H-length": mean / length,
        "cosine to each seed, mean": (x / seed_length).mean(1) / length,
        "median / H-length": np.median(x, 1) / length,
    }


def all_scores(exact: dict[str, np.ndarray], seeds: np.ndarray, before: dict[str, np.ndarray] | None = None) -> dict:
    """Every score [N] by name, from what `exact_scores` found, using the seeds numbered `seeds`; higher is better.

    before: of an earlier checkpoint of the same run, for how far training has lowered a row's loss.
    """

    def of(metric: str) -> dict[str, np.ndarray]:
        return reductions(
            exact[f"influence {metric}"][:, seeds],
            exact[f"length {metric}"],
            exact[f"length {IDENTITY.name}"],
            exact[f"seed length {metric}"][seeds],
        )

    scores = of(DEFAULT.name)
    plain = of(IDENTITY.name)
    loss = exact["loss"]
    scores |= {
        "gradient dot product": plain["mean influence"],
        "gradient cosine": plain["mean / length"],
        "gradient agreement": plain["agreement"],
        "low loss": -loss,
        "loss and agreement": ranks(-loss) + ranks(scores["agreement"]),
        "loss and cosine": ranks(-loss) + ranks(scores["cosine to each seed, mean"]),
        "short gradient": -exact[f"length {IDENTITY.name}"],
        "few tokens": -exact["target tokens"].astype(np.float64),
    }
    if before is not None:
        scores["loss already lowered"] = before["loss"] - loss
    return scores


def auroc_with_error(
    score: np.ndarray, kinds: np.ndarray, other: np.ndarray | None = None, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """AUROC of clean rows against all spoiled ones and against each kind, with bootstrap standard errors over rows.

    With `other` also the difference from that score's, over the same resamples: "ahead" [value, error].
    """
    clean = np.flatnonzero(kinds == "clean")
    spoiled = np.flatnonzero(kinds != "clean")
    rng = np.random.default_rng(stream_key("evidence", 0) >> 1)
    draws = [(rng.choice(clean, len(clean)), rng.choice(spoiled, len(spoiled))) for _ in range(resamples)]
    values = np.array([auroc(score[a], score[b]) for a, b in draws])
    result = {
        "all": auroc(score[clean], score[spoiled]),
        "error": float(values.std()),
        **{kind: auroc(score[clean], score[kinds == kind]) for kind in CORRUPTIONS},
    }
    if other is not None:
        others = np.array([auroc(other[a], other[b]) for a, b in draws])
        result["ahead"] = [result["all"] - auroc(other[clean], other[spoiled]), float((values - others).std())]
    return result


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Rank correlation."""
    return float(np.corrcoef(ranks(x), ranks(y))[0, 1])


def share_clean(score: np.ndarray, kinds: np.ndarray, share: float) -> float:
    """Share of clean rows among the best-scored `share` of all, ties by row."""
    best = np.argsort(-score, kind="stable")[: round(share * len(score))]
    return float(np.mean(kinds[best] == "clean"))
