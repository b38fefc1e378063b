"""The rows that a report names, each with its text and its numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from gdig.data.show import row_text
from gdig.reporting.bounds import NAME_BYTES, TEXT, TEXT_BYTES, fitting, fitting_reasons
from gdig.reporting.facts import RowCard
from gdig.selection.finished_run import FinishedRun
from gdig.store.gather import gather

_EFFECTS = 3
_MANY = 20
_PLAIN = ("row", "score", "agreement", "cluster", "distance", "rank", "loss", "tokens")
"""What the output shows of every row; the other columns are the method's reasons."""


def row_cards(
    run: FinishedRun, rows: Iterable[int], near: Mapping[int, tuple[tuple[int, float], ...]]
) -> dict[int, RowCard]:
    """Return a card of each of some valid rows.

    Args:
        run: the run.
        rows: of the pool, each once or more often.
        near: the nearest rows of some of them.
    """
    numbers = np.unique(np.fromiter(rows, np.int64))
    if not len(numbers):
        return {}
    sweep, corpus = run.sweep, run.work.candidates
    columns, voters = sweep.row_columns(numbers), sweep.survey.voters
    influence = gather(sweep.store, "influence", numbers)
    relative = sweep.judge.relative(influence)
    best = np.argsort(-relative, axis=1, kind="stable")[:, :_EFFECTS]
    worst = np.argsort(relative, axis=1, kind="stable")[:, :_EFFECTS]
    sources = sweep.sources.of(numbers)
    place = run.chosen.place if run.chosen is not None else {}
    cards = {}
    contents = corpus.take(numbers)
    same = _same_everywhere(contents)
    for i, (row, content) in enumerate(zip(numbers.tolist(), contents, strict=True)):
        at = place.get(row)
        shown = run.chosen.columns[at - 1] if run.chosen is not None and at is not None else {}
        cards[row] = RowCard(
            row,
            fitting(row_text({name: value for name, value in content.items() if name not in same}, TEXT), TEXT_BYTES),
            fitting(corpus.where(row), NAME_BYTES),
            int(sources[i]),
            float(columns["loss"][i]),
            int(columns["tokens"][i]),
            float(columns["score"][i]) if voters else None,
            float(columns["votes"][i]) / voters if voters else None,
            int(columns["label"][i]) if "label" in columns else None,
            at,
            tuple((int(s), float(relative[i, s])) for s in best[i] if relative[i, s] > 0),
            tuple((int(s), float(relative[i, s])) for s in worst[i] if relative[i, s] < 0),
            near.get(row, ()),
            fitting_reasons({key: value for key, value in shown.items() if key not in _PLAIN}),
        )
    return cards


def _same_everywhere(contents: list[dict[str, Any]]) -> set[str]:
    """Names of fields that say the same in all of many rows, such as the languages of translations."""
    if len(contents) < _MANY:
        return set()
    first = contents[0]
    return {name for name in first if all(name in row and row[name] == first[name] for row in contents)} - {"text"}
