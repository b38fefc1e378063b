"""A selection as HTML, for notebooks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from gdig.data.export import FIELD

_LENGTH = 200
"""Characters of a row that are shown."""

_REASONS = ("rank", "row", "score", "agreement", "cluster", "loss", "tokens")


def selection_html(
    summary: Sequence[str],
    warnings: Sequence[str],
    columns: Sequence[Mapping[str, Any]],
    contents: Sequence[Mapping[str, Any]],
    n: int,
) -> str:
    """Return the first rows of a selection as a table, below its summary. All texts are escaped.

    Args:
        summary: lines of text.
        warnings: lines of text.
        columns: what gdig says of each shown row.
        contents: the fields of the shown rows; fewer, or none, where the file cannot be read.
        n: how many rows are selected.
    """
    names = [name for name in _REASONS if any(column.get(name) is not None for column in columns)]
    head = "".join(f"<th>{escape(name)}</th>" for name in (*names, "content"))
    lines = []
    for i, column in enumerate(columns):
        cells = [_number(column.get(name)) for name in names]
        cells.append(_content(contents[i]) if i < len(contents) else "")
        lines.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    more = f"<p>{n - len(columns):,} more rows</p>" if n > len(columns) else ""
    return (
        "".join(f"<p>{escape(line)}</p>" for line in summary)
        + "".join(f"<p><strong>Warning:</strong> {escape(line)}</p>" for line in warnings)
        + f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>{more}"
    )


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _content(row: Mapping[str, Any]) -> str:
    fields = {name: value for name, value in row.items() if name != FIELD}
    text = json.dumps(fields, ensure_ascii=False, default=str)
    return text if len(text) <= _LENGTH else text[: _LENGTH - 1] + "…"
