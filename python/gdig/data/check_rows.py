"""A pass over all rows without a model: whether each can be used, how long it is, and how much of it is the target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gdig.config.options import RowFormat
from gdig.data.corpus import Corpus
from gdig.data.tokens import Encoder
from gdig.errors import CorpusError
from gdig.nouns import counted

_CHUNK = 2048


@dataclass
class RowsReport:
    """What the rows of a file are.

    Attributes:
        path: the file.
        format: the row format.
        detail: the languages, or the columns that options name. It may be empty.
        rendering: how the rows become text.
        rows: the number of rows.
        tokens: tokens of the rows that can be used.
        targets: how many of these have a loss.
        cut: rows that were cut to fit the window.
        not_whole: rows with a turn whose text the chat template leaves out.
        bad: rows that cannot be used.
        first_error: the error of the first of these.
        lengths: rows by their number of tokens, int64 [longest + 1].
    """

    path: Path
    format: RowFormat
    detail: str
    rendering: str
    rows: int
    tokens: int = 0
    targets: int = 0
    cut: int = 0
    not_whole: int = 0
    bad: int = 0
    first_error: CorpusError | None = None
    lengths: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return len(self.lengths) - 1

    def length_of(self, share: float) -> int:
        """Return the number of tokens that a share of the usable rows does not exceed. 0.5 is the median."""
        counts = np.cumsum(self.lengths)
        return int(np.searchsorted(counts, max(1, share * counts[-1]))) if counts[-1] else 0

    def __str__(self) -> str:
        form = f"{self.format} ({self.detail})" if self.detail else self.format
        line = f"{self.path}: {counted(self.rows, 'row')}, {form}, by {self.rendering}"
        if self.tokens:
            cut = f"; {counted(self.cut, 'row')} cut" if self.cut else ""
            line += (
                f"; {counted(self.tokens, 'token')}, {self.targets / self.tokens:.0%} of them target; a row has"
                f" {self.length_of(0.5):,} (median), {self.length_of(0.95):,} (95 %), {self.longest:,} (longest){cut}"
            )
        if self.not_whole:
            line += f"; in {counted(self.not_whole, 'row')} the chat template leaves out the text of a turn"
        return line + (f"; {counted(self.bad, 'row')} cannot be used" if self.bad else "")


def check_rows(
    corpus: Corpus, encoder: Encoder, advance: Callable[[int], None], *, stop: bool = False
) -> list[RowsReport]:
    """Make the tokens of every row, and report on each file.

    Args:
        corpus: the rows.
        encoder: makes their tokens.
        advance: called with the number of rows that are done.
        stop: whether the first row that cannot be used ends the pass.

    Raises:
        CorpusError: on the first row that cannot be used, if `stop` is set; or if a file can no longer be read.
    """
    reports = []
    start = 0
    for file, end in enumerate(corpus.ends):
        reader = encoder.reader_of(file)
        report = RowsReport(corpus.paths[file], reader.format, reader.detail, encoder.rendering_of(file), end - start)
        for first in range(start, end, _CHUNK):
            last = min(first + _CHUNK, end)
            _add(report, encoder.encode(corpus, range(first, last)), stop)
            advance(last - first)
        reports.append(report)
        start = end
    return reports


def summary_of(name: str, reports: list[RowsReport]) -> str:
    """Return a line on all files of a corpus: rows, tokens, and how many rows are of each format."""
    rows, tokens = sum(report.rows for report in reports), sum(report.tokens for report in reports)
    formats: dict[str, int] = {}
    for report in reports:
        formats[report.format] = formats.get(report.format, 0) + report.rows
    counts = ", ".join(f"{n:,} {row_format}" for row_format, n in formats.items())
    files = f"{len(reports):,} files, " if len(reports) > 1 else ""
    share = f", {sum(report.targets for report in reports) / tokens:.0%} of them target" if tokens else ""
    return f"{name}: {files}{counted(rows, 'row')} ({counts}), {counted(tokens, 'token')}{share}"


def _add(report: RowsReport, encoded: list, stop: bool) -> None:
    lengths = []
    for example in encoded:
        if isinstance(example, CorpusError):
            if stop:
                raise example
            report.bad += 1
            report.first_error = report.first_error or example
            continue
        lengths.append(len(example))
        report.targets += example.n_target
        report.cut += example.cut > 0
        report.not_whole += not example.is_whole
    report.tokens += sum(lengths)
    counts = np.bincount(np.array(lengths, np.int64), minlength=len(report.lengths))
    counts[: len(report.lengths)] += report.lengths
    report.lengths = counts
