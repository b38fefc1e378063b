"""gdig: by turns of the seeds where the model does not know the pool, and by the seeds' agreement where it does.

A model that was tuned on the pool has a mean gradient near zero there, as the G-DIG paper (arXiv 2405.12915) has it.
The sign of an influence then says whether a row helps more than an average row, and the published choice is the better
one. In a model that was not, almost every row helps, and that choice returns the mix of the pool. The sweep tells which
case it is (docs/evidence.md).
"""

from __future__ import annotations

from dataclasses import replace

from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.selection.blend import pool_shift
from gdig.selection.method import FinishedSweep, Picked
from gdig.selection.methods.agreement import agreement
from gdig.selection.methods.turns import turns

KNOWN = 0.1
"""Shift below which the model knows the pool. Pools that a model was tuned on had at most 0.03, others 0.28 or more."""


def gdig(sweep: FinishedSweep, limit: Limit, random_seed: int, options: Config) -> Picked:
    """Pick rows by the method `agreement` where the pool's shift is below `KNOWN`, and by `turns` elsewhere."""
    shift = pool_shift(sweep)
    known = shift < KNOWN
    picked = (agreement if known else turns)(sweep, limit, random_seed, options)
    why = f"the pool's mean influence on a seed is {shift:.2g} of its deviation"
    note = (
        f"by agreement, because {why}: the model knows the pool, so the sign of the influence tells rows apart"
        if known
        else f"by turns, because {why}: the model was not tuned on the pool, and almost any row helps"
    )
    return replace(picked, notes=(note, *picked.notes), ordered=not known)
