"""LESS (arXiv 2402.04333): the rows for which Adam would step where the seeds' gradients point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.errors import ConfigError
from gdig.selection.method import Picked, Swept, taken_within


class Best(NamedTuple):
    """Rows int64 [n], best first."""

    rows: NDArray[np.int64]


def less(swept: Swept, limit: Limit, random_seed: int, options: Config) -> Picked:
    """Rows with the highest score, ties by row: over the checkpoints the weighted mean of the cosine, then the mean
    over a task's seeds, then the greatest of the tasks (definition 3.1). Without task labels all seeds are
    one task. A row that is invalid at one of the checkpoints is not chosen.

    Raises:
        ConfigError: when no checkpoints were swept, or the weights are not theirs.
    """
    if not swept.checkpoints:
        raise ConfigError(
            "method: less needs checkpoints of a training run with the optimizer's state: give their directories with "
            "--checkpoints, which sweeps them"
        )
    shares = weights([one.learning_rate for one in swept.checkpoints], options.checkpoint_weights)
    score, task, lost = scores(swept, shares)
    able = int(np.isfinite(score).sum())

    def take(n: int) -> Best:
        return Best(best(score, min(n, able)))

    found, n = taken_within(take, swept, limit)
    rows = found.rows[:n]
    reasons: dict[str, np.ndarray] = {"cosine": score[rows]}
    if swept.tasks:
        reasons["for_task"] = np.array(swept.tasks.names)[task[rows]]
    notes = [f"weights of the checkpoints: {', '.join(f'{share:.3g}' for share in shares)}"]
    if lost:
        notes.append(f"{lost} rows have a loss or gradient that is not finite at one of the checkpoints; left out")
    return Picked(rows, reasons, tuple(notes))


def weights(rates: Sequence[float], given: Sequence[float]) -> NDArray[np.float64]:
    """Weights of the checkpoints, float64, of sum 1: as given, or their learning rates.

    Raises:
        ConfigError: when there are not as many as checkpoints, or none is above 0.
    """
    if given and len(given) != len(rates):
        raise ConfigError(f"checkpoint_weights: expected {len(rates)}, one a checkpoint, got {len(given)}")
    x = np.array(given or rates, dtype=np.float64)
    if not (math.isfinite(x.sum()) and (x >= 0).all() and x.sum() > 0):
        raise ConfigError(
            f"checkpoint_weights: the checkpoints' learning rates are {', '.join(f'{rate:g}' for rate in x)}; expected "
            "numbers >= 0, not all of them 0: give weights, one a checkpoint"
        )
    return x / x.sum()


def scores(swept: Swept, shares: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64], int]:
    """Each row's score, float64 [N] and -inf where it cannot be chosen; the task it is from, int64 [N]; and how many
    rows of the sweep's valid ones are lost at a checkpoint. Reads the shards one by one.

    Args:
        swept: with checkpoints.
        shares: their weights, of sum 1.
    """
    n = swept.survey.rows
    score, task, lost = np.full(n, -np.inf), np.zeros(n, np.int64), 0
    of_seed = swept.tasks.of_seed if swept.tasks else np.zeros(swept.survey.n_seeds, np.int64)
    members = [np.flatnonzero(of_seed == number) for number in range(int(of_seed.max(initial=0)) + 1)]
    for shard in swept.store.shards:
        start, stop = swept.store.shard_range(shard)
        swept_here = swept.store.tensor(shard, "valid").astype(bool)
        valid, cosine = swept_here.copy(), np.zeros((stop - start, len(of_seed)))
        for share, one in zip(shares, swept.checkpoints, strict=True):
            valid &= one.store.tensor(shard, "valid").astype(bool)
            cosine += share * one.store.tensor(shard, "cosine")
        # Sums of numpy, whose order does not depend on threads.
        by_task = np.stack([cosine[:, seeds].mean(1) for seeds in members], axis=1)
        score[start:stop] = np.where(valid, by_task.max(1), -np.inf)
        task[start:stop] = by_task.argmax(1)
        lost += int((swept_here & ~valid).sum())
    return score, task, lost


def best(score: NDArray[np.float64], n: int) -> NDArray[np.int64]:
    """The n rows of the highest score, best first, ties by row."""
    if n == 0:
        return np.zeros(0, np.int64)
    least = np.partition(score, len(score) - n)[len(score) - n]
    above = np.flatnonzero(score > least)
    rows = np.concatenate([above, np.flatnonzero(score == least)[: n - len(above)]])
    return rows[np.lexsort((rows, -score[rows]))]
