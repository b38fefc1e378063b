"""The first rows of each file as the model will see them, and a check of all rows."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from rich.text import Text

from gdig.control_characters import visible
from gdig.data.check_rows import RowsReport, check_rows, summary_of
from gdig.data.tokens import IGNORED, Encoder, Example, decoded
from gdig.errors import BadRowError, CorpusError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from gdig.data.corpus import Corpus

_MOST_FILES = 12
"""Files of which rows are shown."""

LEGEND = Text("⟦ ⟧ enclose the target, which has the loss. The rest is the prompt, which has no loss.\n", style="dim")


@dataclass(frozen=True)
class Preview:
    """What a run would read. Print it, or its `texts` by rich.

    Attributes:
        texts: rows of each file, and a line on each file and on the whole.
        reports: what the check of all rows says of each file of `candidates` and of `seeds`.
        error: what would stop a run. None if nothing would.
    """

    texts: list[Text]
    reports: dict[str, list[RowsReport]]
    error: CorpusError | None

    def __str__(self) -> str:
        return "\n".join(map(str, self.texts))


def preview_corpus(
    corpus: Corpus,
    encoder: Encoder,
    rows: int,
    advance: Callable[[int], None],
    *,
    skip_bad_rows: bool = False,
) -> tuple[list[Text], list[RowsReport], CorpusError | None]:
    """Show the first rows of each file, and check all rows.

    Args:
        corpus: where the rows are.
        encoder: makes their tokens.
        rows: how many rows of a file are shown.
        advance: called with the number of rows that are checked.
        skip_bad_rows: whether a run would leave out rows that cannot be used.

    Returns:
        The texts, a report on each file, and the error that would stop a run.
    """
    texts = []
    starts = [corpus.first_row(file) for file in range(corpus.n_files)]
    for start, end in list(zip(starts, corpus.ends, strict=True))[:_MOST_FILES]:
        texts += preview_rows(corpus, encoder, range(start, min(end, start + rows)), encoder.tokenizer)
    if corpus.n_files > _MOST_FILES:
        more = corpus.n_files - _MOST_FILES
        texts.append(Text(f"(rows of {more:,} more files are not shown; name a file to see them)\n", style="dim"))
    reports = check_rows(corpus, encoder, advance)
    bad = sum(report.bad for report in reports)
    first = next((report.first_error for report in reports if report.first_error is not None), None)
    texts += [Text(visible(str(report))) for report in reports]
    texts.append(Text(summary_of(corpus.name, reports), style="bold"))
    if first is None or (skip_bad_rows and bad < len(corpus)):
        return texts, reports, None
    return texts, reports, BadRowError(f"{first} ({bad:,} of {len(corpus):,} rows of {corpus.name} cannot be used)")


def preview_rows(
    corpus: Corpus,
    encoder: Encoder,
    rows: Sequence[int],
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    max_chars: int = 2000,
) -> list[Text]:
    """Show rows as the model will see them: the tokens are decoded again, special tokens included.

    Args:
        corpus: where the rows are.
        encoder: makes their tokens.
        rows: the numbers of the rows.
        tokenizer: turns tokens into text. Without a tokenizer (rows of the format tokens) the numbers are shown.
        max_chars: of each stretch of prompt or target. A longer stretch is shown without its middle.

    Returns:
        A text for each row: file and row, counts of tokens, then prompt (dim) and target (bold, in ⟦ ⟧). A row that
        cannot be used shows its error (red). `str(text)` is the same text without colour.
    """
    return [
        _error(result) if isinstance(result, CorpusError) else _show(corpus.where(row), result, tokenizer, max_chars)
        for row, result in zip(rows, encoder.encode(corpus, rows), strict=True)
    ]


def _error(error: CorpusError) -> Text:
    return Text(f"{visible(str(error))}\n", style="red")


def _show(where: str, example: Example, tokenizer: PreTrainedTokenizerBase | None, max_chars: int) -> Text:
    cut = f", {example.cut} cut to fit the window" if example.cut else ""
    counts = f"{len(example)} tokens, {example.n_target} of them target{cut}"
    text = Text(f"{visible(where)}: {counts}\n", style="cyan")
    # Joined, not appended, so the body keeps its own styles.
    body = Text()
    is_target = example.labels != IGNORED
    for target, positions in itertools.groupby(range(len(example)), key=lambda t: bool(is_target[t])):
        ids = example.input_ids[list(positions)]
        content = _shortened(visible(_decoded(ids, tokenizer)), max_chars)
        body.append(f"⟦{content}⟧" if target else content, style="bold green" if target else "dim")
    return Text("").join([text, body, Text("\n")])


def _decoded(ids: np.ndarray, tokenizer: PreTrainedTokenizerBase | None) -> str:
    if tokenizer is None:
        return f" {' '.join(map(str, ids.tolist()))} "
    return decoded(tokenizer, ids.tolist())


def _shortened(text: str, max_chars: int) -> str:
    if len(text) <= max_chars:
        return text
    half = max_chars // 2
    return f"{text[:half]} … {len(text) - 2 * half} characters … {text[-half:]}"
