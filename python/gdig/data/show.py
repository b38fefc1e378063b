"""A row of the pool as text for people: its own fields, whatever its format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TURN_KEYS = (("role", "content"), ("from", "value"))
"""Names of speaker and text in the turns of a conversation."""
_ONE_LINE = 60
"""A text of up to so many characters stands on the line of its field's name."""


def row_text(content: Mapping[str, Any], most: int = 2000) -> str:
    """Return the texts of a row, field by field; long texts without their middle.

    Conversations are shown turn by turn. A field without text is left out, unless the row has no other.

    Args:
        content: the row's fields.
        most: characters of the result, about; with the names of the fields, half as many again at most.
    """
    texts = {name: text for name, value in content.items() if (text := _text(value))}
    if not texts:
        return shortened(", ".join(f"{name}: {_size(value)}" for name, value in content.items()), most)
    if len(texts) == 1:
        return shortened(next(iter(texts.values())), most)
    share = max(40, most // len(texts))
    labelled = "\n".join(_labelled(name, shortened(text, share)) for name, text in texts.items())
    return shortened(labelled, most * 3 // 2)  # many fields, or long names


def row_words(content: Mapping[str, Any], most: int = 4000) -> str:
    """Return the texts of a row without the names of its fields, for words that characterise rows."""
    return "\n".join(text for value in content.values() if (text := _text(value)))[:most]


def shortened(text: str, most: int) -> str:
    """Return the text, without its middle where it is longer than `most` characters."""
    if len(text) <= most:
        return text
    head = most * 2 // 3
    return f"{text[:head]} … {text[len(text) - (most - head) :]}"


def _labelled(name: str, text: str) -> str:
    return f"{name}: {text}" if len(text) <= _ONE_LINE and "\n" not in text else f"{name}:\n{text}"


def _text(value: Any) -> str:
    """The text in a value: a string, or the turns of a conversation."""
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)):
        return "\n".join(turn for item in value if (turn := _turn(item)))
    return ""


def _turn(item: Any) -> str:
    if isinstance(item, str):
        return item
    if isinstance(item, Mapping):
        for speaker, words in _TURN_KEYS:
            if isinstance(item.get(words), str):
                return f"{item.get(speaker, 'text')}: {item[words]}"
    return ""


def _size(value: Any) -> str:
    return f"{len(value)} values" if isinstance(value, (list, tuple, Mapping)) else str(value)
