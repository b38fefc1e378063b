"""What the bench reads out of finished runs, and the form in which it prints and records it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from benches.shared.auroc import auroc
from benches.zh_en.pool import CORRUPTIONS
from gdig import SketchStore
from gdig.run.layout import RunLayout

ALL = "all four"


def read_sweep(run: Path, *names: str) -> list[np.ndarray]:
    """Tensors of a run's sweep, whole."""
    store = SketchStore.open(RunLayout(run).sweep)
    if not all(store.tensor(shard, "valid").all() for shard in range(store.n_shards)):
        raise SystemExit(f"{run}: rows without a finite score; AUROC would count them wrongly")
    return [np.concatenate([store.tensor(shard, name) for shard in range(store.n_shards)]) for name in names]


def read_scores(run: Path, cosine: np.ndarray, dot: np.ndarray, random_seed: int) -> dict[str, np.ndarray]:
    """Scores of every candidate, higher meaning better: by their names in the table, float64 [N].

    `cosine` and `dot` [N] compare a row's gradient with the seeds' mean gradient (see zh_en.cosine).
    """
    influence, loss, tokens = read_sweep(run, "influence", "loss", "tokens")
    mean_square = (influence.astype(np.float64) ** 2).mean(1)
    return {
        "score": influence.mean(1, dtype=np.float64) / np.sqrt(mean_square),
        "mean influence": influence.mean(1, dtype=np.float64),
        "agreement": (influence > 0).mean(1),
        "low loss": -loss.astype(np.float64),
        "gradient dot product": dot,
        "gradient cosine": cosine,
        "few tokens": -tokens.astype(np.float64),
        "random": np.random.default_rng(random_seed).random(len(loss)),
    }


def auroc_table(scores: dict[str, np.ndarray], kinds: np.ndarray) -> dict[str, dict[str, float]]:
    """AUROC of each score, clean rows against each kind of spoiled rows and against all of them."""
    groups = {ALL: kinds != "clean", **{kind: kinds == kind for kind in CORRUPTIONS}}
    return {
        name: {kind: auroc(score[kinds == "clean"], score[bad]) for kind, bad in groups.items()}
        for name, score in scores.items()
    }


def standard_error(n: int, m: int) -> float:
    """Standard deviation of the AUROC of a score that knows nothing, `n` rows against `m` (Mann-Whitney)."""
    return math.sqrt((n + m + 1) / (12 * n * m))
