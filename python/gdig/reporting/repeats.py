"""Repeats and near-repeats among the chosen rows."""

from __future__ import annotations

import numpy as np

from gdig.explanation.facts import NEAR
from gdig.reporting.columns import sketches_of
from gdig.reporting.facts import Repeats
from gdig.selection.finished_run import FinishedRun

_COMPARED = 2_000
"""Chosen rows of which all pairs are compared."""
_PAIRS = 10


def find_repeats(run: FinishedRun) -> Repeats:
    """Count repeats by tokens and labels, and compare the sketches of the first chosen rows."""
    sweep = run.record.stages.sweep
    counts = sweep.counts if sweep is not None else None
    pool, equal = (counts.repeat_another, counts.equal_to_a_seed) if counts is not None else (0, 0)
    rows = run.chosen.rows if run.chosen is not None else np.zeros(0, np.int64)
    if not len(rows):
        return Repeats(pool, equal, 0, 0, 0, ())
    repeated = len(rows) - len(np.unique(run.sweep.column("hash", rows)))
    compared = rows[:_COMPARED]
    sketches = sketches_of(run, compared)
    lengths = np.linalg.norm(sketches, axis=1, keepdims=True)
    units = sketches / np.where(lengths == 0, 1, lengths)
    cosines = np.triu(units @ units.T, 1)
    first, second = np.nonzero(cosines >= NEAR)
    order = np.argsort(-cosines[first, second], kind="stable")[:_PAIRS]
    pairs = tuple(
        (int(compared[a]), int(compared[b]), float(cosines[a, b]))
        for a, b in zip(first[order], second[order], strict=True)
    )
    return Repeats(pool, equal, repeated, len(compared), len(first), pairs)
