"""What the user gets: the selected rows and what gdig says of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gdig.data.export import FIELD
from gdig.data.read_back import as_dataset, read_rows, read_table
from gdig.errors import CorpusError, OutputError
from gdig.nouns import counted
from gdig.selection.choose import ScoredRows
from gdig.selection.selection_html import selection_html
from gdig.selection.survey import Survey
from gdig.selection.tasks import Tasks

if TYPE_CHECKING:
    import datasets
    import pandas

_SHOWN = 10
"""Rows that a notebook shows."""
_MOST_SOURCES = 20
"""Sources that the summary names."""


@dataclass(frozen=True)
class Selection:
    """The selected rows; in a notebook, a table of the first ones.

    rows: int64 [n], rows of the pool, best first. columns: one dict a row, as the output shows it under "gdig". output:
    the file. summary: lines to print. warnings: what fit and sweep found that may make the selection less good than it
    seems.

    Example:
        >>> selection = gdig.select(run_path="runs/a", format="messages")
        >>> trainer = SFTTrainer(model, train_dataset=selection.to_dataset())  # doctest: +SKIP
    """

    rows: np.ndarray
    columns: list[dict[str, Any]]
    output: Path
    summary: list[str]
    warnings: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        """Return the number of selected rows."""
        return len(self.rows)

    def to_dataset(self) -> datasets.Dataset:
        """Return the rows of the output as a :class:`datasets.Dataset`, best first, with `gdig` if it is there.

        Turns, calls and tools come without the nulls that columns add for keys of other rows. So a chat template gives
        the text that was measured.

        Raises:
            CorpusError: if the file is gone or changed. Also if a field has values of several kinds, such as text and
                numbers, which a column cannot hold.
        """
        table = read_table(self.output)
        if len(table) != len(self.rows):
            raise OutputError(f"{self.output}: {len(table)} rows, expected the {len(self.rows)} of the selection")
        return as_dataset(table)

    def to_pandas(self) -> pandas.DataFrame:
        """Return the rows of the output as a :class:`pandas.DataFrame`, best first.

        A column is a field of the rows. What gdig says of a row follows, a column each: gdig.row, gdig.score and so on,
        also for an output without the field `gdig`.

        Raises:
            CorpusError: if the file is gone or changed.
        """
        import pandas

        rows = [{name: value for name, value in row.items() if name != FIELD} for row in read_rows(self.output)]
        if len(rows) != len(self.rows):
            raise OutputError(f"{self.output}: {len(rows)} rows, expected the {len(self.rows)} of the selection")
        reasons = [{f"{FIELD}.{name}": value for name, value in column.items()} for column in self.columns]
        return pandas.DataFrame([{**row, **reason} for row, reason in zip(rows, reasons, strict=True)])

    def _repr_html_(self) -> str:
        try:
            contents = list(islice(read_rows(self.output), _SHOWN))
        except CorpusError:  # a table of reasons alone, rather than an error in a notebook
            contents = []
        return selection_html(self.summary, self.warnings, self.columns[:_SHOWN], contents, len(self.rows))


def source_counts(sources: Mapping[str, int]) -> str:
    """Return the counts of the sources with most rows, as text."""
    ordered = sorted(sources.items(), key=lambda item: -item[1])
    others = sum(count for _, count in ordered[_MOST_SOURCES:])
    texts = [f"{name} {count:,}" for name, count in ordered[:_MOST_SOURCES]]
    return ", ".join([*texts, *([f"{len(ordered) - _MOST_SOURCES} others {others:,}"] if others else [])])


def output_columns(scored: ScoredRows, survey: Survey, tasks: Tasks) -> list[dict[str, Any]]:
    """Return what the output shows beside each row, under "gdig"."""
    values, voters = scored.columns, survey.voters
    return [
        {
            "row": int(row),
            "score": float(values["score"][i]) if voters else None,
            "agreement": float(values["votes"][i] / voters) if voters else None,
            "cluster": int(values["label"][i]) if "label" in values else None,
            "distance": float(values["distance"][i]) if "distance" in values else None,
            "rank": i + 1,
            "loss": float(values["loss"][i]),
            "tokens": int(values["tokens"][i]),
            **({"tasks": dict(zip(tasks.names, scored.by_task[i].tolist(), strict=True))} if tasks and voters else {}),
            **{name: reason[i].item() for name, reason in scored.reasons.items()},
        }
        for i, row in enumerate(scored.rows)
    ]


def summary_lines(
    scored: ScoredRows, survey: Survey, tasks: Tasks, n_clusters: int | None, output: Path, n_rows: int
) -> list[str]:
    """Return the lines that say what was selected.

    Args:
        scored: the selection.
        survey: of the sweep.
        tasks: of the seeds.
        n_clusters: clusters with a row; None without clusters.
        output: the file.
        n_rows: rows of the pool that the selection is made from.
    """
    values, n = scored.columns, len(scored.rows)
    tokens = counted(int(values["tokens"].sum()), "token")
    lines = [f"{n:,} of {counted(n_rows, 'row')} ({tokens}): {output}", *scored.notes]
    if len(scored.sources) > 1:
        lines.append("rows by source: " + source_counts(scored.sources))
    if n and survey.voters:
        agreement, score = values["votes"].mean() / survey.voters, values["score"].mean(dtype=np.float64)
        lines.append(
            f"agreement of the selection {agreement:.3f} (pool {survey.mean_agreement:.3f}), "
            f"mean score {score:.3g} (pool {survey.mean_score:.3g})"
        )
    if n and tasks and survey.voters:
        means = zip(tasks.names, scored.by_task.mean(0), strict=True)
        lines.append("mean influence by task: " + ", ".join(f"{name} {mean:.3g}" for name, mean in means))
    if n_clusters is not None:
        lines.append(f"rows come from {len(np.unique(values['label']))} of {counted(n_clusters, 'cluster')}")
    return lines
