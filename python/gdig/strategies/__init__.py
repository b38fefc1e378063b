"""Ways to choose from one finished sweep. One file a method; `METHODS` names them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gdig import _native
from gdig.config import Budget, Config
from gdig.strategies import g2is, self_filter
from gdig.strategies.base import Picked, Strategy, Swept
from gdig.strategies.best import loss, top
from gdig.strategies.bids import bids
from gdig.strategies.draws import diverse, gdig, random
from gdig.strategies.less import less
from gdig.strategies.tagcos import tagcos

__all__ = ["METHODS", "Choice", "Picked", "Strategy", "Swept", "choose"]

METHODS: dict[str, Strategy] = {
    "gdig": Strategy(gdig, clusters=True),
    "less": Strategy(less, ordered=True, checkpoints=True),
    "bids": Strategy(bids, ordered=True),
    "g2is": Strategy(g2is.g2is, ordered=True, neighbours=g2is.asked),
    "tagcos": Strategy(tagcos, ordered=True, clusters=True),
    "self-filter": Strategy(self_filter.self_filter, ordered=True, neighbours=self_filter.asked),
    "top": Strategy(top, ordered=True),
    "diverse": Strategy(diverse, clusters=True),
    "loss": Strategy(loss, ordered=True),
    "random": Strategy(random),
}
"""By the name that the option `method` knows them by (gdig.options.Method)."""


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


def choose(swept: Swept, budget: Budget, config: Config) -> Choice:
    """Choose up to `budget` rows by `config.method`.

    Returns:
        The rows in the method's own order, or by falling score, ties by row.
    """
    strategy = METHODS[config.method]
    picked = strategy.pick(swept, budget, config.seed, config)
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
    elif budget.unit == "rows" and len(rows) < budget.amount:
        notes.append(f"only {len(rows)} of the {budget.amount:.0f} rows asked for could be chosen: no more are valid")
    return Choice(rows, columns, by_task, reasons, notes)
