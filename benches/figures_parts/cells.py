"""Records, and how their numbers are written."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benches.shared.machine import ROOT
from benches.shared.tables import markdown

RECORDS = ROOT / "benches" / "record"


@functools.cache
def record(name: str) -> dict[str, Any]:
    """The record of a bench, by the name of its file without the ending."""
    content: dict[str, Any] = json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8"))
    return content


def percent(share: float, digits: int = 0) -> str:
    """A share, with a blank before the sign."""
    return f"{100 * share:.{digits}f} %"


def interval(values: Sequence[float], digits: int = 3, bounds: int = 2, sign: str = "") -> str:
    """A value and its interval."""
    value, low, high = values
    return f"{value:{sign}.{digits}f} [{low:{sign}.{bounds}f}, {high:{sign}.{bounds}f}]"


def bold(text: str) -> str:
    """A cell that stands out: the best one of its column."""
    return f"**{text}**"


def column(
    values: Sequence[float | None], text: Callable[[float], str], best: Callable[[Iterable[float]], float]
) -> list[str]:
    """The cells of a column; the best value in bold. An absent value is an empty cell."""
    most = best(value for value in values if value is not None)
    cells = ["" if value is None else text(value) for value in values]
    return [bold(cell) if value == most else cell for cell, value in zip(cells, values, strict=True)]


def table(header: Sequence[str], *columns: Sequence[str]) -> str:
    """A Markdown table of columns of cells, the first one to the left."""
    return markdown(header, [list(row) for row in zip(*columns, strict=True)])
