"""How many rows each source gives."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from gdig.config.check import shown
from gdig.config.read import load_yaml
from gdig.errors import ConfigError

OTHERS = "*"
"""Name that stands in a file of quotas for every source that the file does not name."""


def source_weights(asked: str, names: Sequence[str], available: Sequence[int]) -> list[Fraction]:
    """Return the weight of each source in the budget.

    Args:
        asked: the option `source_quotas`: equal, proportional, or a YAML file of weights by the name of the source. A
            source that the file does not name has the weight of "*", or none.
        names: of the sources.
        available: rows of each source that may be chosen.

    Raises:
        ConfigError: naming the file and the key: no mapping, an unknown source, or a weight that is no number of at
            least 0; or when no weight is above 0.
    """
    if asked == "equal":
        return [Fraction(1)] * len(names)
    if asked == "proportional":
        return [Fraction(n) for n in available]
    given = read_weights(Path(asked))
    for name in given:
        if name not in names and name != OTHERS:
            near = difflib.get_close_matches(name, list(names), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
            raise ConfigError(f"{asked}: {name!r} is no source of the pool, which has {shown}{hint}")
    weights = [given.get(name, given.get(OTHERS, Fraction(0))) for name in names]
    if not any(weights):
        raise ConfigError(f"{asked}: expected a weight above 0 for at least one source of the pool, got none")
    return weights


def share_out(amount: int, weights: Sequence[Fraction], available: Sequence[int]) -> list[int]:
    """Return each source's share of an amount, in whole numbers that add up to it where so much is there.

    A source that has less than its share gives all it has, and the others share the rest by their weights. What
    rounding leaves goes to the largest remainders, ties to the first source.

    Args:
        amount: rows or tokens.
        weights: of the sources, at least 0.
        available: rows or tokens of each.
    """
    shares = [0] * len(weights)
    active = [i for i, weight in enumerate(weights) if weight > 0 and available[i] > 0]
    rest = min(amount, sum(available[i] for i in active))
    while active:
        total = sum((weights[i] for i in active), Fraction(0))
        full = [i for i in active if available[i] * total <= rest * weights[i]]
        if not full:
            exact = {i: rest * weights[i] / total for i in active}
            for i in active:
                shares[i] = math.floor(exact[i])
            leftover = rest - sum(shares[i] for i in active)
            for i in sorted(active, key=lambda i: (shares[i] - exact[i], i))[:leftover]:
                shares[i] += 1
            break
        for i in full:
            shares[i] = available[i]
            rest -= available[i]
        active = [i for i in active if i not in full]
    return shares


def read_weights(path: Path) -> dict[str, Fraction]:
    """Read the weights of a YAML file, by the name of the source.

    Raises:
        ConfigError: naming the file and the key: no mapping, or a weight that is no number of at least 0.
    """
    expected = "a mapping of sources to weights, such as 'code.jsonl: 2'"
    try:
        is_there = path.is_file()
    except (OSError, ValueError):  # no name of a file
        is_there = False
    if not is_there:
        raise ConfigError(
            f"source_quotas={str(path)!r}: expected equal, proportional or a YAML file, found no such file"
        )
    _, values = load_yaml(path, "weights", expected)
    if not isinstance(values, dict) or not values:
        raise ConfigError(f"{path}: expected {expected}, got {type(values).__name__}")
    weights = {}
    for name, value in values.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not 0 <= value < math.inf:
            raise ConfigError(f"{path}: {name}: expected a number of at least 0, got {shown(value)}")
        weights[str(name)] = Fraction(value)
    return weights
