"""LESS (arXiv 2402.04333): rows whose Adam step points along the seeds' gradients."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.nouns import counted
from gdig.selection.best import highest
from gdig.selection.checkpoint_weights import no_checkpoints, weighted_cosines, weights
from gdig.selection.method import FinishedSweep, OrderedRows, Picked, rows_within


def less(sweep: FinishedSweep, limit: Limit, random_seed: int, options: Config) -> Picked:
    """Pick the rows with the highest score, ties by row (definition 3.1).

    The score is the weighted mean of the cosine over the checkpoints, then the mean over a task's seeds, then the
    greatest of the tasks. Without task labels all seeds are one task. A row that is invalid at a checkpoint is left
    out.

    Raises:
        ConfigError: when no checkpoint was swept, or the number of weights is not that of the checkpoints.
    """
    if not sweep.checkpoints:
        raise no_checkpoints("method")
    shares = weights([checkpoint.learning_rate for checkpoint in sweep.checkpoints], options.checkpoint_weights)
    score, task, n_lost = scores(sweep, shares)
    n_eligible = int(np.isfinite(score).sum())

    def take(n: int) -> OrderedRows:
        return OrderedRows(highest(score, min(n, n_eligible)))

    result, n = rows_within(take, sweep, limit)
    rows = result.rows[:n]
    reasons: dict[str, np.ndarray] = {"cosine": score[rows]}
    if sweep.tasks:
        reasons["for_task"] = np.array(sweep.tasks.names)[task[rows]]
    notes = [f"weights of the checkpoints: {', '.join(f'{share:.3g}' for share in shares)}"]
    if n_lost:
        lost = counted(n_lost, "row is left out", "rows are left out")
        notes.append(f"{lost}: the loss or gradient is not finite at one of the checkpoints")
    return Picked(rows, reasons, tuple(notes))


def scores(sweep: FinishedSweep, shares: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64], int]:
    """Score every row, shard by shard.

    Args:
        sweep: with checkpoints.
        shares: weights of the checkpoints, of sum 1.

    Returns:
        The scores, float64 [N], -inf for a row that cannot be selected; the task that each score comes from, int64 [N];
        and how many valid rows of the sweep are invalid at a checkpoint.
    """
    n = sweep.survey.rows
    score, task, n_lost = np.full(n, -np.inf), np.zeros(n, np.int64), 0
    of_seed = sweep.tasks.of_seed if sweep.tasks else np.zeros(sweep.survey.n_seeds, np.int64)
    members = [np.flatnonzero(of_seed == number) for number in range(int(of_seed.max(initial=0)) + 1)]
    for shard in sweep.store.shards:
        start, stop = sweep.store.shard_range(shard)
        valid_in_sweep = sweep.store.tensor(shard, "valid").astype(bool)
        cosine, valid_at_all = weighted_cosines(sweep.checkpoints, shares, shard)
        valid = valid_in_sweep & valid_at_all
        # Sums of numpy, whose order does not depend on threads.
        by_task = np.stack([cosine[:, seeds].mean(1) for seeds in members], axis=1)
        score[start:stop] = np.where(valid, by_task.max(1), -np.inf)
        task[start:stop] = by_task.argmax(1)
        n_lost += int((valid_in_sweep & ~valid).sum())
    return score, task, n_lost
