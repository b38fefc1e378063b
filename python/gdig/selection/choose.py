"""Choose rows by a method, and gather what the files say of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gdig import _native
from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.selection.method import Swept
from gdig.selection.methods import METHODS


@dataclass(frozen=True)
class Choice:
    """Chosen rows int64 [n], best first; what the files say of them; and how they were found.

    columns: votes uint32, score float32, loss float32, tokens int64, and where there are clusters label uint32 and
    distance float32, all [n]. by_task: mean influence on each task's seeds, float64 [n, tasks]. reasons: the method's
    own, [n] each.
    """

    rows: np.ndarray
    columns: dict[str, np.ndarray]
    by_task: np.ndarray
    reasons: dict[str, np.ndarray]
    notes: list[str]


def choose(swept: Swept, limit: Limit, config: Config) -> Choice:
    """Choose rows within `limit` by `config.method`.

    Returns:
        The rows in the method's own order, or by falling score, ties by row.
    """
    strategy = METHODS[config.method]
    picked = strategy.pick(swept, limit, config.random_seed, config)
    rows, reasons = picked.rows, dict(picked.reasons)
    columns = _native.row_columns(swept.store._native, swept.labels, rows, config.score, swept.voting)
    if not strategy.ordered:
        order = np.lexsort((rows, -columns["score"].astype(np.float64)))
        rows = rows[order]
        columns, reasons = ({name: x[order] for name, x in every.items()} for every in (columns, reasons))
    by_task = swept.tasks.mean(swept.column("influence", rows)) if swept.tasks else np.zeros((len(rows), 0))
    notes = list(picked.notes)
    if picked.shortfall is not None:
        notes.append(picked.shortfall)
    elif limit.unit == "rows" and len(rows) < limit.amount:
        notes.append(f"only {len(rows)} of the {limit.amount} rows asked for could be chosen: no more are valid")
    return Choice(rows, columns, by_task, reasons, notes)
