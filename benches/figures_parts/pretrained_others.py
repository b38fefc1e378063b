"""Tables of the methods that were trained on once beside gdig, by the pretrained model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benches.figures_parts.cells import bold, interval, percent, record, table
from benches.figures_parts.pretrained import LOSING, TENTH, losses
from benches.pretrained.result_tables import interval as difference

_BASES = ("gdig", "random")
Pools = Sequence[Mapping[str, Any]]


def groups() -> dict[str, Pools]:
    """The pools by what the tables call them: those of one target together, the others one by one."""
    own = record("pretrained-others")["pools"]
    together = {"one target, the mean of six pools": [pool for pool in own.values() if pool["kind"] == "P1"]}
    labels = {**LOSING, **{name: f"pairs: {name}" for name in own if own[name]["kind"] == "P2"}}
    return together | {label: [own[name]] for name, label in labels.items() if name in own}


def methods(of: Pools) -> list[str]:
    """The methods in these pools, in the order of the record."""
    return [rule for rule in of[0]["outcomes"][TENTH] if rule not in _BASES]


def beside(of: Pools, rule: str) -> tuple[float, float, float]:
    """How far a method's loss is above gdig's after one training of the same random seed, with the 95 % interval."""
    return difference(losses(of, rule), losses(of, "gdig"))


def level(of: Pools) -> list[str]:
    """The methods that are not told apart from gdig, the lowest loss first."""
    own = {rule: beside(of, rule) for rule in methods(of)}
    found = [rule for rule, (_, low, high) in own.items() if low <= 0 <= high]
    return sorted(found, key=lambda rule: own[rule][0])


def ahead(of: Pools) -> list[str]:
    """The methods whose loss is below gdig's by more than the interval, the lowest loss first."""
    own = {rule: beside(of, rule) for rule in methods(of)}
    return sorted((rule for rule, (_, _, high) in own.items() if high < 0), key=lambda rule: own[rule][0])


def of_one_target() -> str:
    """Each method on the pools of one target: loss, difference from gdig, share of clean rows of the target."""
    of, *_ = groups().values()
    rows = []
    for rule in (*_BASES, *sorted(methods(of), key=lambda rule: losses(of, rule).mean())):
        own = beside(of, rule)
        loss, gap = f"{losses(of, rule).mean():.3f}", interval(own, 3, 3, sign="+")
        good = percent(float(np.mean([pool["outcomes"][TENTH][rule]["good"] for pool in of])))
        rows.append([rule, loss, "" if rule == "gdig" else bold(gap) if own[1] <= 0 else gap, good])
    return table(["method", "loss", "beside gdig", "clean rows of the target"], *map(list, zip(*rows, strict=True)))


def elsewhere() -> str:
    """Each method on the other pools: the difference from gdig; of gdig, the loss."""
    of_one, *others = groups().items()
    columns = []
    for _, of in others:
        cells = [f"loss {losses(of, 'gdig').mean():.3f}"]
        for rule in ("random", *methods(of_one[1])):
            own = beside(of, rule)
            text = interval(own, 2, 2, sign="+")
            cells.append(bold(text) if own[1] <= 0 else text)
        columns.append(cells)
    return table(["beside gdig", *(name for name, _ in others)], ["gdig", "random", *methods(of_one[1])], *columns)
