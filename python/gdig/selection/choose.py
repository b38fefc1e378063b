"""Pick rows by a method, and gather what the sweep and the clusters say of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.selection.method import FinishedSweep
from gdig.selection.methods import METHODS


@dataclass(frozen=True)
class ScoredRows:
    """The rows that a method picked, with what the sweep and the clusters say of them.

    rows: int64 [n], best first. columns: votes uint32, score float32, loss float32, tokens int64, and with clusters
    label uint32 and distance float32, all [n]. by_task: mean influence on each task's seeds, less the baselines,
    float64 [n, tasks]; NaN without gradients.
    reasons: the method's own, [n] each. notes: sentences for the user.
    """

    rows: np.ndarray
    columns: dict[str, np.ndarray]
    by_task: np.ndarray
    reasons: dict[str, np.ndarray]
    notes: list[str]


def choose(sweep: FinishedSweep, limit: Limit, config: Config) -> ScoredRows:
    """Pick rows within `limit` by `config.method`.

    Returns:
        The rows in the method's own order; without one by falling score, ties by row.
    """
    method = METHODS[config.method]
    picked = method.pick(sweep, limit, config.random_seed, config)
    rows, reasons = picked.rows, dict(picked.reasons)
    columns = sweep.row_columns(rows)
    if not (method.ordered if picked.ordered is None else picked.ordered):
        order = np.lexsort((rows, -columns["score"].astype(np.float64)))
        rows = rows[order]
        columns, reasons = ({name: x[order] for name, x in arrays.items()} for arrays in (columns, reasons))
    by_task = np.full((len(rows), len(sweep.tasks.names)), np.nan)
    if sweep.tasks and sweep.survey.voters:
        by_task = sweep.tasks.mean(sweep.judge.relative(sweep.column("influence", rows)))
    notes = list(picked.notes)
    if picked.shortfall is not None:
        notes.append(picked.shortfall)
    elif limit.unit == "rows" and len(rows) < limit.amount:
        notes.append(f"only {len(rows)} of the {limit.amount} rows asked for: no more rows are valid")
    return ScoredRows(rows, columns, by_task, reasons, notes)
