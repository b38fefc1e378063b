"""Pick rows by a method, and gather what the sweep and the clusters say of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.nouns import counted
from gdig.selection.eligible import Eligible
from gdig.selection.method import FinishedSweep, Picked
from gdig.selection.methods import METHODS
from gdig.selection.pick import pick_rows


@dataclass(frozen=True)
class ScoredRows:
    """The rows that a method picked, with what the sweep and the clusters say of them.

    rows: int64 [n], best first. columns: votes uint32, score float32, loss float32, tokens int64, and with clusters
    label uint32 and distance float32, all [n]. by_task: mean influence on each task's seeds, less the baselines,
    float64 [n, tasks]; NaN without gradients.
    reasons: the method's own, [n] each. notes: sentences for the user. sources: rows by source. similar: rows that were
    passed over, because they are near to a chosen row. warnings: of the method.
    """

    rows: np.ndarray
    columns: dict[str, np.ndarray]
    by_task: np.ndarray
    reasons: dict[str, np.ndarray]
    notes: list[str]
    sources: dict[str, int] = field(default_factory=dict)
    similar: int = 0
    warnings: tuple[str, ...] = ()


def choose(sweep: FinishedSweep | Eligible, limit: Limit, config: Config) -> ScoredRows:
    """Pick rows within `limit` by `config.method`.

    Args:
        sweep: the finished sweep, or the rows of it that may be chosen. The options repeats and exclude have no effect
            on a sweep as it is, and `max_similarity` needs the features of `Eligible`.
        limit: of rows or tokens.
        config: the options.

    Returns:
        The rows in the method's own order; without one by falling score, ties by row.
    """
    method, eligible = METHODS[config.method], sweep if isinstance(sweep, Eligible) else None
    sweep = sweep.sweep if isinstance(sweep, Eligible) else sweep
    picked, similar = Picked(np.zeros(0, np.int64)), 0
    if eligible is None or sweep.survey.valid > 0:  # what a method says of no rows says nothing
        features = eligible.features if eligible is not None else None
        picked, similar = pick_rows(sweep, limit, config, METHODS, features)
    rows, reasons = picked.rows, dict(picked.reasons)
    columns = sweep.row_columns(rows)
    if not (method.ordered if picked.ordered is None else picked.ordered):
        order = np.lexsort((rows, -columns["score"].astype(np.float64)))
        rows = rows[order]
        columns, reasons = ({name: x[order] for name, x in arrays.items()} for arrays in (columns, reasons))
    by_task = np.full((len(rows), len(sweep.tasks.names)), np.nan)
    if sweep.tasks and sweep.survey.voters:
        by_task = sweep.tasks.mean(sweep.judge.relative(sweep.column("influence", rows)))
    notes = [*picked.notes, *(eligible.notes() if eligible is not None else [])]
    if similar:
        passed = counted(similar, "row was passed over", "rows were passed over")
        notes.append(f"{passed}: the cosine with an earlier row exceeds {config.max_similarity:g}")
    if picked.shortfall is not None:
        notes.append(picked.shortfall)
    elif limit.unit == "rows" and len(rows) < limit.amount:
        reason = "no more rows are valid" if eligible is None or not eligible.bars else "no more rows may be chosen"
        notes.append(f"only {len(rows)} of the {counted(limit.amount, 'row')} asked for: {reason}")
    sources = sweep.sources.counts(rows) if len(sweep.sources) else {}
    return ScoredRows(rows, columns, by_task, reasons, notes, sources, similar, picked.warnings)
