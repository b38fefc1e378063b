"""gdig: by the seeds' agreement where the pool is of the seeds' kind and known to the model, by turns elsewhere.

A model that was tuned on the pool has a mean gradient near zero there, as the G-DIG paper (arXiv 2405.12915) has it.
The whole pool may also be of the seeds' kind. Then the sign of an influence says whether a row helps more than an
average row, and the published choice is the better one.

In a model that was not tuned on the pool almost every row helps. In a mixed pool, most rows have nothing to do with the
seeds, and the signs of their small influences are noise. In both cases that choice returns the mix of the pool. The
sweep tells which case it is (docs/evidence.md).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, NamedTuple

from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.selection.blend import KNOWN, pool_shift, seeds_reach
from gdig.selection.method import FinishedSweep, Picked
from gdig.selection.methods.agreement import agreement
from gdig.selection.methods.turns import turns

OF_ONE_KIND = 0.7
"""Share of the rows that matter to the seeds from which on the pool is of their kind. Pools of one task had 0.79 or
more, mixed pools with one target 0.64 or less."""


class Rule(NamedTuple):
    """What `gdig` follows on a sweep. method: its name. note: why, a sentence for the user."""

    method: Literal["agreement", "turns"]
    note: str


def rule_for(sweep: FinishedSweep) -> Rule:
    """Return `agreement` where the shift is below `KNOWN` and the seeds reach `OF_ONE_KIND`, else `turns`."""
    shift = pool_shift(sweep)
    why = f"the pool's mean influence on a seed is {shift:.2g} of its deviation"
    if shift >= KNOWN:
        return Rule("turns", f"by turns, because {why}: the model hardly knows the pool, so the signs tell little")
    if (reach := seeds_reach(sweep)) >= OF_ONE_KIND:
        note = f"by agreement, because {why}: the model knows the pool, so the sign of the influence tells rows apart"
        return Rule("agreement", note)
    note = f"by turns, because {reach:.0%} of the pool matters to the seeds: it is mixed, and they are a part of it"
    return Rule("turns", note)


def gdig(sweep: FinishedSweep, limit: Limit, random_seed: int, options: Config) -> Picked:
    """Pick rows by the rule that suits the sweep (:func:`rule_for`)."""
    rule = rule_for(sweep)
    by_agreement = rule.method == "agreement"
    picked = (agreement if by_agreement else turns)(sweep, limit, random_seed, options)
    return replace(picked, notes=(rule.note, *picked.notes), ordered=not by_agreement)
