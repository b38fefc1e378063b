"""Which runs of words that rows share with an evaluation set belong to an entry, and which to a template around many.

A run that many different rows of the pool have is common: it is a template's, a licence's or a proverb's, as the runs
that GPT-3 left out (Brown et al. 2020, appendix C). A row shares an entry's words if it has a run that is not common.
At least `OWN_WORDS` words of that run are in no common run. So a template and two words after it are no share.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gdig.store.tensor_file import Named

OWN_WORDS = 8
"""Words of a run that have to be in no common run."""
_MOST_WORDS = 64
"""No run has as many words."""
_SHARE, _LEAST, _MOST = 100, 5, 50


def common_above(rows: int) -> int:
    """Return how many rows of a pool may have a run that is not common: 1 in 100, at least 5, at most 50.

    Templates of large pools have more rows than 50, and few questions are asked in so many ways. In a small pool, a
    template has few rows too.
    """
    return min(_MOST, max(_LEAST, rows // _SHARE))


@dataclass(frozen=True)
class SharedRuns:
    """Runs of words that rows share with an evaluation set, by row, text and place; arrays [n].

    row: place in the shard, int32. text, start, words: which text of the row, its first word, how many words; int32.
    run: what the words are, uint64. entry: the first entry that has them, int32; -1 for a run that is common whatever
    else the pool holds. content: all words of the row, uint64.
    """

    row: NDArray[np.int32]
    text: NDArray[np.int32]
    start: NDArray[np.int32]
    words: NDArray[np.int32]
    run: NDArray[np.uint64]
    entry: NDArray[np.int32]
    content: NDArray[np.uint64]

    @classmethod
    def join(cls, runs: Iterable[tuple[int, tuple[NDArray[Any], ...]]]) -> SharedRuns:
        """Join what `SharedWords.find` gives for consecutive rows; each with the place of its first row."""
        moved = [(columns[0] + np.int32(first), *columns[1:]) for first, columns in runs]
        return cls(*(np.concatenate(column) for column in zip(*moved, strict=True)))

    @classmethod
    def read(cls, tensors: Named[NDArray[Any]], rows: int) -> SharedRuns:
        """Take the runs from the tensors of a file of `rows` rows.

        Raises:
            StoreError: if a tensor is absent or of another shape.
        """
        names = [field.name for field in fields(cls)]
        tensors.shaped(**{name: "int n" for name in names})
        runs = cls(*(tensors[name] for name in names))
        in_texts = (runs.text >= 0) & (runs.start >= 0) & (runs.words > 0) & (runs.words <= _MOST_WORDS)
        runs = runs.some((runs.row >= 0) & (runs.row < rows) & in_texts)
        return runs.some(np.lexsort((runs.start, runs.text, runs.row)))

    def span(self) -> int:
        """Return how many words of texts `own` lays out on one line, at most."""
        if not len(self.row):
            return 0
        texts = np.flatnonzero(self._texts())
        return int((np.maximum.reduceat(self.start.astype(np.int64), texts) - self.start[texts] + _MOST_WORDS).sum())

    def tensors(self) -> Mapping[str, NDArray[Any]]:
        """Return the arrays by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def _texts(self) -> NDArray[np.bool_]:
        """Whether a run is the first of its text, [n]. Runs come by row, text and place."""
        texts = np.ones(len(self.row), np.bool_)
        texts[1:] = (self.row[1:] != self.row[:-1]) | (self.text[1:] != self.text[:-1])
        return texts

    def some(self, which: NDArray[Any]) -> SharedRuns:
        """Return some of the runs: those whose bool is set, or whose numbers are given, in this order."""
        return SharedRuns(*(getattr(self, field.name)[which] for field in fields(self)))

    def without_settled(self) -> SharedRuns:
        """Return the runs of the rows that may share an entry's words, whatever other shards hold.

        A run that more than 50 different rows before a row of this shard have is common wherever this row is in the
        pool. So a file holds a bounded number of places of each run, and a row that has common runs alone is not in it.
        """
        runs = np.unique(self.run, return_inverse=True)[1].astype(np.int64)
        order = np.lexsort((self.row, self.content, runs))
        first = np.ones(len(order), np.bool_)
        first[1:] = (runs[order][1:] != runs[order][:-1]) | (self.content[order][1:] != self.content[order][:-1])
        length = int(self.row.max(initial=0)) + 1
        firsts = np.sort(runs[order][first] * length + self.row[order][first])
        before = np.searchsorted(firsts, runs * length + self.row) - np.searchsorted(firsts, runs * length)
        marked = replace(self, entry=np.where(before > _MOST, np.int32(-1), self.entry))
        return marked.some(np.isin(self.row, self.row[marked.entry >= 0]))

    def own(self, common: NDArray[np.uint64]) -> SharedRuns:
        """Return the runs that are an entry's own, where those of `common` are common.

        Words are laid out on one line, those of each text of each row behind one another.
        """
        is_common = (self.entry < 0) | np.isin(self.run, common)
        if not len(is_common):
            return self
        texts = self._texts()
        of_text = np.cumsum(texts) - 1
        origin = self.start[texts].astype(np.int64)  # runs of a text come by their place
        length = np.maximum.reduceat(self.start.astype(np.int64) + self.words, np.flatnonzero(texts)) - origin
        begin = (np.cumsum(length) - length - origin)[of_text] + self.start
        end = begin + self.words
        marks = np.zeros(int(length.sum()) + 1, np.int32)
        np.add.at(marks, begin[is_common], 1)
        np.add.at(marks, end[is_common], -1)
        free = np.concatenate([[0], np.cumsum(np.cumsum(marks[:-1]) == 0)])
        return self.some(~is_common & (free[end] - free[begin] >= OWN_WORDS))


class RunCounts:
    """Counts the different rows that have each run, shard by shard. Memory holds up to `most` + 1 rows of each run.

    most: a run that more rows have is common.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._pairs = np.zeros((0, 2), np.uint64)
        self._common = np.zeros(0, np.uint64)

    @property
    def common(self) -> NDArray[np.uint64]:
        """The common runs, ascending."""
        return self._common

    def add(self, runs: SharedRuns) -> None:
        """Count the rows of another shard."""
        new = runs.some((runs.entry >= 0) & ~np.isin(runs.run, self._common))
        pairs = np.unique(np.concatenate([self._pairs, np.stack([new.run, new.content], 1)]), axis=0)
        names, counts = np.unique(pairs[:, 0], return_counts=True)
        self._common = np.union1d(self._common, names[counts > self._most])
        self._pairs = pairs[~np.isin(pairs[:, 0], self._common)]
