"""Texts of others on a terminal, which obeys some characters."""

from __future__ import annotations

import unicodedata


def visible(text: str) -> str:
    """Escape control characters, so that data cannot control a terminal."""
    return "".join(
        f"\\u{ord(c):04x}" if unicodedata.category(c) in ("Cc", "Cf") and c not in "\n\t\u200c\u200d" else c
        for c in text
    )
