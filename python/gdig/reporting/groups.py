"""Clusters, files and tasks of a run, line by line."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gdig.data.show import row_words
from gdig.reporting.bounds import LINES, NAME_BYTES, fitting
from gdig.reporting.columns import Columns
from gdig.reporting.facts import ClusterCard, SourceLine, TaskLine
from gdig.reporting.words import characteristic_words
from gdig.resampling import label_counts
from gdig.selection.finished_run import FinishedRun

CARDS = 24
"""Clusters that get a card: those with most chosen rows."""
_EXAMPLES = 3
_WORD_ROWS = 40
"""Rows of a cluster whose words are counted."""


def cluster_cards(columns: Columns) -> tuple[ClusterCard, ...]:
    """Return the cards of the clusters with most chosen rows, of the largest where nothing is chosen."""
    if "label" not in columns.values or not len(columns.rows):
        return ()
    run = columns.run
    labels = columns.values["label"].astype(np.int64)
    sizes = np.bincount(labels)
    chosen = np.bincount(labels[columns.is_chosen], minlength=len(sizes))
    order = np.lexsort((np.arange(len(sizes)), -sizes, -chosen))
    shown = [int(number) for number in order[:CARDS] if sizes[number]]
    members = {}
    for number in shown:
        at = np.flatnonzero(labels == number)
        members[number] = at[np.argsort(columns.values["distance"][at], kind="stable")][:_WORD_ROWS]
    texts = {
        number: [row_words(content) for content in run.work.candidates.take(columns.rows[at])]
        for number, at in members.items()
    }
    words = characteristic_words(texts)
    means = _means(columns, labels, len(sizes))
    return tuple(
        ClusterCard(
            number,
            int(sizes[number]),
            int(chosen[number]),
            None if means is None else float(means[number]),
            words[number],
            tuple(columns.rows[members[number][:_EXAMPLES]].tolist()),
        )
        for number in shown
    )


def count_clusters(run: FinishedRun) -> int:
    """Return how many clusters have a row."""
    return int((label_counts(run.sweep.labels) > 0).sum()) if run.sweep.labels is not None else 0


def source_lines(columns: Columns, names: Sequence[str]) -> tuple[SourceLine, ...]:
    """Return a line for each source of the pool, up to 200; of a sample where the columns are one."""
    n = len(names)
    rows, chosen = (np.bincount(columns.source[at], minlength=n) for at in (slice(None), columns.is_chosen))
    tokens = np.bincount(columns.source, weights=columns.values["tokens"], minlength=n)
    means = _means(columns, columns.source, n)
    return tuple(
        SourceLine(
            fitting(names[i], NAME_BYTES),
            int(rows[i]),
            int(chosen[i]),
            int(tokens[i]),
            None if means is None or not rows[i] else float(means[i]),
        )
        for i in range(min(n, LINES))
    )


def task_lines(columns: Columns) -> tuple[TaskLine, ...]:
    """Return a line for each task of the seeds, up to 200."""
    run = columns.run
    tasks = run.sweep.tasks
    if not tasks or not run.sweep.survey.voters:
        return ()
    judge = run.sweep.judge
    pool, chosen = (
        tasks.mean(judge.relative(x)) if len(x) else None
        for x in (columns.influence_sample(), columns.chosen_influence())
    )
    assert pool is not None, "a run with voters has valid rows"
    seeds = np.bincount(tasks.of_seed, minlength=len(tasks.names))
    return tuple(
        TaskLine(
            fitting(name, NAME_BYTES),
            int(seeds[i]),
            float(pool[:, i].mean()),
            None if chosen is None else float(chosen[:, i].mean()),
        )
        for i, name in enumerate(tasks.names[:LINES])
    )


def _means(columns: Columns, group: np.ndarray, n: int) -> np.ndarray | None:
    """The mean score of each group; None without influence."""
    if not columns.run.sweep.survey.voters:
        return None
    sums = np.bincount(group, weights=columns.values["score"].astype(np.float64), minlength=n)
    return np.asarray(sums / np.maximum(1, np.bincount(group, minlength=n)))
