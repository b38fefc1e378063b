"""Copies of a text as pools have them: changed in case, punctuation, template or words."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

Change = Callable[[str, random.Random], str]


def _swapped(share: float, words: list[str]) -> Change:
    def change(text: str, rng: random.Random) -> str:
        changed = text.split(" ")
        for place in rng.sample(range(len(changed)), max(1, round(share * len(changed)))):
            changed[place] = rng.choice(words)
        return " ".join(changed)

    return change


def changes(words: list[str]) -> dict[str, Change]:
    """The kinds of copies, by name. `words`: what swapped words are drawn from."""
    return {
        "exact": lambda text, rng: text,
        "case": lambda text, rng: text.upper() if rng.random() < 0.5 else text.title(),
        "punctuation": lambda text, rng: (
            re.sub(r"[.,;:!?]", lambda m: rng.choice(["", " -", "...", "!"]), text) + " !!"
        ),
        "template": lambda text, rng: f"### Instruction: please answer carefully.\n{text}\n### Response:",
        "1 word in 20 swapped": _swapped(0.05, words),
        "1 word in 10 swapped": _swapped(0.10, words),
        "1 word in 5 swapped": _swapped(0.20, words),
    }
