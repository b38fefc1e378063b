"""Words that tell the rows of a group from the others, in any language."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0e7f]+")
"""Scripts without blanks between words: Chinese, Japanese, Thai. Their words are pairs of characters."""
_WORD = re.compile(r"[^\W\d_][\w'’]*")
_LONGEST = 40
"""Characters of a word; longer runs are no words."""
_FEWEST = 2
"""Rows of a group that a word is in, at least."""


def characteristic_words(groups: Mapping[int, Sequence[str]], most: int = 8) -> dict[int, tuple[str, ...]]:
    """Return for each group the words that many of its texts have and few others do.

    A word counts once a text. Its weight is p log(p / q), with p its share of the group's texts and q its share of all
    texts.

    Args:
        groups: texts by group.
        most: words of a group.
    """
    counts = {group: Counter(word for text in texts for word in words_of(text)) for group, texts in groups.items()}
    total: Counter[str] = Counter()
    for count in counts.values():
        total.update(count)
    n = sum(len(texts) for texts in groups.values())
    frequent = {}
    for group, count in counts.items():
        size = max(1, len(groups[group]))
        weights = {
            word: times / size * math.log(times / size * n / total[word])
            for word, times in count.items()
            if times >= min(_FEWEST, size)
        }
        best = sorted(weights, key=lambda word: (-weights[word], word))
        frequent[group] = tuple(word for word in best[:most] if weights[word] > 0)
    return frequent


def words_of(text: str) -> set[str]:
    """Return the words of a text, in lower case."""
    text = text.lower()
    pairs = {run[i : i + 2] for run in _UNSPACED.findall(text) for i in range(max(1, len(run) - 1))}
    spaced = {word for word in _WORD.findall(_UNSPACED.sub(" ", text)) if 1 < len(word) <= _LONGEST}
    return pairs | spaced
