"""The texts of a row, whatever its format: for comparisons of words."""

from __future__ import annotations

from typing import Any

_WHO = frozenset({"role", "from"})
"""Fields of a turn that name who speaks."""
_MOST_DEEP = 64


def row_texts(content: Any) -> list[str]:
    """Return the texts of a row, in the order of its fields: each text by itself, and each list of token ids as one.

    Numbers and the names of who speaks are no texts.

    Example:
        >>> row_texts({"messages": [{"role": "user", "content": "Hello"}], "input_ids": [7, 8], "id": 3})
        ['Hello', '7 8']
    """
    texts: list[str] = []
    _add(content, texts, 0)
    return texts


def _add(value: Any, texts: list[str], depth: int) -> None:
    if isinstance(value, str):
        # Half of a surrogate pair has no UTF-8.
        texts.append(value if value.isascii() else value.encode("utf-8", "replace").decode())
    elif depth > _MOST_DEEP:
        return
    elif isinstance(value, dict):
        for name, item in value.items():
            if name not in _WHO:
                _add(item, texts, depth + 1)
    elif isinstance(value, (list, tuple)):
        if value and all(isinstance(item, int) and not isinstance(item, bool) for item in value):
            texts.append(" ".join(map(str, value)))
            return
        for item in value:
            _add(item, texts, depth + 1)
