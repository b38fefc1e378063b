"""How far the quick methods agree with one another and with the selection."""

from __future__ import annotations

import numpy as np

from gdig.explanation.places import possible_methods
from gdig.reporting.facts import Overlap
from gdig.selection.choose import choose
from gdig.selection.finished_run import FinishedRun
from gdig.selection.methods import METHODS

QUICK = ("gdig", "turns", "agreement", "top", "round-robin", "loss", "rds", "diverse", "random")
"""Methods that take a fraction of a second on ten thousand rows."""
MOST_ROWS = 50_000
"""Above so many rows, gdig compare is the place for the comparison."""


def overlap_of_methods(run: FinishedRun) -> Overlap | None:
    """Select by each of the quick methods; None for a large pool."""
    if run.sweep.survey.rows > MOST_ROWS:
        return None
    names = [name for name in QUICK if name in possible_methods(run)]
    rows = []
    for name in names:
        options = run.config.with_options(method=name)
        bare = run.eligible if METHODS[name].clusters else run.eligible.without_clusters()
        rows.append(choose(bare, run.limit, options).rows)
    chosen = run.chosen.rows if run.chosen is not None else np.zeros(0, np.int64)
    return Overlap(
        tuple(names),
        tuple(tuple(_share(a, b) for b in rows) for a in rows),
        tuple(_share(chosen, b) for b in rows) if len(chosen) else (),
    )


def _share(a: np.ndarray, b: np.ndarray) -> float:
    """The share of the rows `a` that are among `b`; 0 without rows."""
    return float(np.isin(a, b).mean()) if len(a) else 0.0
