"""The text of a row token by token. Tokens that make up one character together are one piece."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gdig.data.tokens import decoded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_INCOMPLETE = "\ufffd"
"""What a tokenizer decodes bytes to that are no whole character."""
_MOST_TOKENS = 8
"""Tokens that one character can take. Longer runs are not joined, so that damaged text stays short pieces."""


def split_pieces(ids: np.ndarray, tokenizer: PreTrainedTokenizerBase | None) -> list[tuple[str, range]]:
    """Cut a row into pieces of text.

    Args:
        ids: int32 [T].
        tokenizer: None for rows of the format tokens, whose pieces are the numbers.

    Returns:
        The text of each piece, and the positions of its tokens. The texts together are the row's text.
    """
    if tokenizer is None:
        return [(f"{token} ", range(t, t + 1)) for t, token in enumerate(ids.tolist())]
    pieces: list[tuple[str, range]] = []
    start, before = 0, ""  # before: the text of the piece in front, without which a tokenizer drops leading blanks
    numbers = ids.tolist()
    previous: list[int] = []
    for t in range(len(numbers)):
        group = numbers[start : t + 1]
        text = decoded(tokenizer, previous + group)
        text = text[len(before) :] if text.startswith(before) else decoded(tokenizer, group)
        if text.endswith(_INCOMPLETE) and len(group) < _MOST_TOKENS and t + 1 < len(numbers):
            continue
        pieces.append((text, range(start, t + 1)))
        previous, start = group, t + 1
        before = decoded(tokenizer, previous)
    return pieces
