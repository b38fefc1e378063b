"""How much of a run's data a page shows, so that it stays small whatever the rows, names and files are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gdig.data.show import shortened
from gdig.pages.render import script_json

TEXT = 300
"""Characters of a row's text."""
TEXT_BYTES = 900
"""Bytes of a row's text in the page: so many characters of Chinese, fewer of emoji or of escaped characters."""
SEED_BYTES = 500
NAME_BYTES = 200
"""Bytes of the name of a source, of a task, or of the place of a row."""
VALUE_BYTES = 2_000
"""Bytes of an option, a warning or a note."""
LINES = 200
"""Lines of a table of sources, tasks or files."""
SEEDS = 1_000
"""Seeds that the page lists."""
_ENTRIES = 4
"""Entries that are shown of a reason with one number for each task."""
_ENTRY_BYTES = 40


def fitting(text: str, most_bytes: int) -> str:
    """Return the text, without its middle where it takes more bytes in the page."""
    most = len(text)
    while (size := len(script_json(text).encode("utf-8", "replace"))) > most_bytes:
        most = min(most - 1, most * most_bytes // size)
        text = shortened(text, most)
    return text


def fitting_reasons(reasons: Mapping[str, Any]) -> dict[str, Any]:
    """Return the reasons of a method; of one number for each of many tasks, the strongest."""
    shown: dict[str, Any] = {}
    for name, value in reasons.items():
        if isinstance(value, Mapping):
            strongest = sorted(value.items(), key=lambda entry: -abs(entry[1]))[:_ENTRIES]
            entries = value.items() if len(value) <= _ENTRIES else strongest
            label = name if len(value) <= _ENTRIES else f"{name}, the strongest"
            shown[label] = {fitting(str(key), _ENTRY_BYTES): number for key, number in entries}
        else:
            shown[name] = fitting(value, _ENTRY_BYTES) if isinstance(value, str) else value
    return shown
