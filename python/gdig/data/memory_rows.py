"""Rows that somebody has typed, as a corpus."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gdig.data.corpus import Columns, Corpus


class MemoryRows:
    """Rows in memory. path: a name for messages."""

    def __init__(self, name: str, rows: Sequence[dict[str, Any]]) -> None:
        self.path, self._rows = Path(name), list(rows)
        self.files: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return len(self._rows)

    def fields(self) -> tuple[str, ...]:
        """Return the names of the fields, in their order."""
        return tuple(dict.fromkeys(name for row in self._rows for name in row))

    def rows(self, start: int, stop: int, columns: Columns = None) -> list[dict[str, Any]]:
        """Return the rows from `start` up to `stop`, with all their fields."""
        return self._rows[start:stop]

    def take(self, indices: Sequence[int], columns: Columns = None) -> list[dict[str, Any]]:
        """Return the rows at `indices`, with all their fields."""
        return [self._rows[i] for i in indices]

    def line(self, i: int) -> int | None:
        """Return None: the rows have no lines."""


def corpora_of_texts(texts: Sequence[str]) -> list[Corpus]:
    """Make a corpus of each text, so that each has a format of its own.

    A text that is a JSON object is a row with its fields. Any other text is a row of the format text.
    """
    return [Corpus("text", [MemoryRows(f"text {number}", [_row(text)])]) for number, text in enumerate(texts)]


def _row(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"text": text}
