"""Tables of the methods that were trained on once beside gdig, by the pretrained model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benches.figures_parts.cells import bold, interval, percent, record, table
from benches.figures_parts.pretrained import LOSING, TENTH, losses
from benches.pretrained.result_tables import interval as difference

_BASES = ("gdig", "random")
SIX, FIVE = "one target, the mean of six pools", "one target, without rotten_tomatoes"
Pools = Sequence[Mapping[str, Any]]


def groups() -> dict[str, Pools]:
    """The pools by what the tables call them: those of one target together, with and without the one that gdig owes
    its lead to, the others one by one. Of these, a pool counts once all methods of the six have a training there."""
    pools = record("pretrained-others")["pools"]
    six = [pool for pool in pools.values() if pool["kind"] == "P1"]
    own = {name: pool for name, pool in pools.items() if set(methods(six)) <= pool["outcomes"][TENTH].keys()}
    together = {SIX: six, FIVE: [pool for pool in six if pool["targets"] != ["rotten_tomatoes"]]}
    labels = {**LOSING, **{name: f"pairs: {name}" for name in own if own[name]["kind"] == "P2"}}
    return together | {label: [own[name]] for name, label in labels.items() if name in own}


def methods(of: Pools) -> list[str]:
    """The methods that were trained on in all of these pools, in the order of the record."""
    everywhere = set.intersection(*(set(pool["outcomes"][TENTH]) for pool in of))
    return [rule for rule in of[0]["outcomes"][TENTH] if rule in everywhere and rule not in _BASES]


def beside(of: Pools, rule: str) -> tuple[float, float, float]:
    """How far a method's loss is above gdig's after one training of the same random seed, with the 95 % interval."""
    return difference(losses(of, rule), losses(of, "gdig"))


def level(of: Pools) -> list[str]:
    """The methods that are not told apart from gdig, the lowest loss first."""
    own = {rule: beside(of, rule) for rule in methods(groups()[SIX])}
    return sorted((rule for rule, (_, low, high) in own.items() if low <= 0 <= high), key=lambda rule: own[rule][0])


def ahead(of: Pools) -> list[str]:
    """The methods whose loss is below gdig's by more than the interval, the lowest loss first."""
    own = {rule: beside(of, rule) for rule in methods(groups()[SIX])}
    return sorted((rule for rule, (_, _, high) in own.items() if high < 0), key=lambda rule: own[rule][0])


def of_one_target() -> str:
    """Each method on the pools of one target: loss, differences from gdig, share of clean rows of the target."""
    six, five = groups()[SIX], groups()[FIVE]
    rows = []
    for rule in ("gdig", *sorted(["random", *methods(six)], key=lambda rule: losses(six, rule).mean())):
        good = percent(float(np.mean([pool["outcomes"][TENTH][rule]["good"] for pool in six])))
        gaps = ["", ""] if rule == "gdig" else [_cell(beside(of, rule), 3) for of in (six, five)]
        rows.append([rule, f"{losses(six, rule).mean():.3f}", *gaps, good])
    header = ["method", "loss", "beside gdig", "without rotten_tomatoes", "clean rows of the target"]
    return table(header, *map(list, zip(*rows, strict=True)))


def elsewhere() -> str:
    """Each method on the other pools: the difference from gdig; of gdig, the loss."""
    others = {name: of for name, of in groups().items() if name not in (SIX, FIVE)}
    rules = methods(groups()[SIX])
    columns = [
        [f"loss {losses(of, 'gdig').mean():.3f}", *(_cell(beside(of, rule), 2) for rule in ("random", *rules))]
        for of in others.values()
    ]
    return table(["beside gdig", *others], ["gdig", "random", *rules], *columns)


def not_behind() -> str:
    """The methods that gdig is not ahead of, by pool, with the difference of those that are ahead."""
    rows = []
    for name, of in groups().items():
        first = "; ".join(f"{rule} {interval(beside(of, rule), 3, 3, sign='+')}" for rule in ahead(of))
        rows.append([name, first or "none", "; ".join(level(of)) or "none"])
    return table(["pool", "ahead of gdig", "level with gdig"], *map(list, zip(*rows, strict=True)))


def _cell(own: tuple[float, float, float], digits: int) -> str:
    """A difference from gdig, bold where gdig is not ahead."""
    text = interval(own, digits, digits, sign="+")
    return bold(text) if own[1] <= 0 else text
