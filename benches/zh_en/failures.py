"""Where scores fail: seeds few, noisy, or of one kind; rows short or long. All from one influence matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benches.shared.auroc import auroc
from benches.zh_en.exact import DEFAULT
from benches.zh_en.variants import all_scores, spearman
from gdig.passes.seed_health import reliability
from tests.support.bm25 import Bm25

SHOWN = ("mean influence", "agreement", "bounded mean", "mean / spread over seeds", "cosine to each seed, mean")
"""The scores that the seeds make."""


def seed_sets(texts: Sequence[str], n_clean: int, draws: int, rng: np.random.Generator) -> dict[str, list[np.ndarray]]:
    """Sets of seeds by what is wrong with them, several of each: rows of the influence's columns.

    texts: of all seeds; those from n_clean on are spoiled copies of the first ones, in order.
    """
    n_noisy = len(texts) - n_clean
    lengths = np.array([len(text) for text in texts[:n_clean]])
    by_length = np.argsort(lengths, kind="stable")
    alike = Bm25(texts[:n_clean])

    def few(n: int, of: np.ndarray) -> list[np.ndarray]:
        return [np.sort(rng.choice(of, n, replace=False)) for _ in range(draws)]

    def noisy(share: float) -> list[np.ndarray]:
        sets = few(n_noisy // 2, np.arange(n_noisy))
        count = round(share * n_noisy // 2)
        return [np.concatenate([s[count:], n_clean + s[:count]]) for s in (rng.permutation(x) for x in sets)]

    everyone, third = np.arange(n_clean), n_clean // 3
    topics = [np.argsort(-alike.scores(texts[int(s)]), kind="stable")[:32] for s in rng.choice(n_clean, draws, False)]
    return {
        **{f"{n} seeds": few(n, everyone) for n in (4, 8, 16, 32, 64)},
        f"{n_clean} seeds": [everyone],
        **{f"32 seeds, {share:.0%} spoiled": noisy(share) for share in (0.0, 0.25, 0.5, 0.75)},
        "32 seeds, the shortest third": few(32, by_length[:third]),
        "32 seeds, the longest third": few(32, by_length[-third:]),
        "32 seeds, of one topic": topics,
    }


def seed_failures(
    exact: dict[str, np.ndarray], kinds: np.ndarray, sets: dict[str, list[np.ndarray]]
) -> dict[str, dict[str, list[float]]]:
    """AUROC of each score by each kind of seed set: mean, and standard deviation over the sets of that kind; and what
    a run could see of it (see `signs`), likewise."""
    table: dict[str, dict[str, list[float]]] = {}
    clean = kinds == "clean"
    for name, members in sets.items():
        rows: dict[str, list[float]] = {}
        for seeds in members:
            scores = all_scores(exact, seeds)
            values = {score: auroc(scores[score][clean], scores[score][~clean]) for score in SHOWN}
            for key, value in (values | signs(exact, seeds)).items():
                rows.setdefault(key, []).append(value)
        table[name] = {key: [float(np.mean(v)), float(np.std(v))] for key, v in rows.items()}
    return table


def signs(exact: dict[str, np.ndarray], seeds: np.ndarray) -> dict[str, float]:
    """What a run can see without knowing which rows are spoiled.

    reliability: of the votes, as a run reports it (gdig.passes.seed_health).
    """
    loss = exact["seed loss"][seeds]
    excess = float(loss.mean() - np.median(exact["loss"]))
    return {
        "reliability": reliability(exact[f"influence {DEFAULT.name}"][:, seeds] > 0),
        "seed loss - median pool loss": excess,
        "harder by a standard error": float(excess > loss.std(ddof=1) / len(seeds) ** 0.5),
    }


def against_others(x: np.ndarray) -> np.ndarray:
    """Correlation [S] of each seed's column of x [N, S] with the mean of the other columns."""
    others = (x.sum(1, keepdims=True) - x) / (x.shape[1] - 1)
    a, b = x - x.mean(0), others - others.mean(0)
    return (a * b).sum(0) / np.sqrt((a**2).sum(0) * (b**2).sum(0))


def finds_noisy_seeds(exact: dict[str, np.ndarray], n_clean: int, seeds: np.ndarray) -> dict[str, float]:
    """AUROC, clean seeds against spoiled ones of one set, of what a run can see of a seed."""
    x = exact[f"influence {DEFAULT.name}"][:, seeds].astype(np.float64)
    spoiled = seeds >= n_clean
    signals = {
        "influence correlates with the other seeds'": against_others(x / x.std(0)),
        "mean influence on it": x.mean(0),
        "low loss": -exact["seed loss"][seeds],
        "share of the pool that helps it": (x > 0).mean(0),
    }
    return {name: auroc(value[~spoiled], value[spoiled]) for name, value in signals.items()}


def by_length(scores: dict[str, np.ndarray], kinds: np.ndarray, tokens: np.ndarray) -> dict[str, dict[str, float]]:
    """For each score: its rank correlation with the length of clean rows, the AUROC within the shorter and the longer
    half of the pool, and the mean length of the best fifth beside that of all rows."""
    clean, short = kinds == "clean", tokens <= np.median(tokens)
    table: dict[str, Any] = {}
    for name, score in scores.items():
        best = np.argsort(-score, kind="stable")[: len(score) // 5]
        table[name] = {
            "with length": spearman(score[clean], tokens[clean]),
            "short half": auroc(score[clean & short], score[~clean & short]),
            "long half": auroc(score[clean & ~short], score[~clean & ~short]),
            "length of the best fifth": float(tokens[best].mean() / tokens.mean()),
        }
    return table
