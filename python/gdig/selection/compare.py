"""The selections of several methods from one sweep, side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.selection.choose import choose
from gdig.selection.eligible import Eligible
from gdig.selection.methods import METHODS

_MOST_SOURCES = 8
"""Sources that the table shows."""


@dataclass(frozen=True)
class MethodSummary:
    """One method's selection in numbers.

    rows, tokens: how many. score, agreement, loss: means over the rows. clusters: how many the rows come from.
    repeated: rows whose tokens equal those of an earlier row. sources: rows by source. similar: rows that were passed
    over for `max_similarity`. tasks: mean influence on each task's seeds. seconds: time
    of the selection; the first method that asks for neighbours pays for their search. notes: what the method said.
    Means are NaN when no row was selected, and those of influence are NaN in a run without gradients.
    """

    method: str
    rows: int
    tokens: int
    score: float
    agreement: float
    loss: float
    clusters: int
    repeated: int
    sources: dict[str, int]
    similar: int
    tasks: dict[str, float]
    seconds: float
    notes: list[str]


@dataclass(frozen=True)
class HeldOut:
    """The loss on held-out rows after short trainings, in nats a target token.

    rows, tokens: held-out rows, and their target tokens. before: the loss before any training. loss: by method, the
    mean of its trainings. beside_first: by method, the 95 % interval of the difference from the first method's loss.
    """

    rows: int
    tokens: int
    trainings: int
    steps: int
    before: float
    loss: dict[str, float]
    beside_first: dict[str, tuple[float, float]]

    def lines(self) -> list[str]:
        """Return lines for the terminal, the lowest loss first."""
        first = next(iter(self.loss))
        ordered = sorted(self.loss, key=lambda method: self.loss[method])
        cells = [
            [
                name,
                f"{self.loss[name]:.4f}",
                f"{self.loss[name] - self.before:+.4f}",
                "" if name == first else "{:+.4f} to {:+.4f}".format(*self.beside_first[name]),
            ]
            for name in ordered
        ]
        each = f", {self.trainings} times" if self.trainings > 1 else ""
        return [
            f"loss on {self.rows:,} held-out rows ({self.tokens:,} target tokens) after {self.steps:,} steps of "
            f"training{each}; before {self.before:.4f}",
            *_table([["method", "loss", "beside before", f"beside {first} (95 %)"], *cells]),
        ]


@dataclass(frozen=True)
class Comparison:
    """The selections of several methods.

    overlap: float64 [m, m], share of method i's rows that method j has too. rows: int64, each method's rows in its own
    order. held_out: what trainings on the selections give, where they were asked for.
    """

    limit: Limit
    pool: int
    n_clusters: int
    summaries: list[MethodSummary]
    overlap: np.ndarray
    rows: list[np.ndarray]
    held_out: HeldOut | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the comparison as JSON: methods by name, None for NaN."""
        names = [summary.method for summary in self.summaries]
        return {
            "budget": {"unit": self.limit.unit, "amount": self.limit.amount},
            "rows": self.pool,
            "clusters": self.n_clusters,
            "methods": {summary.method: {k: _plain(v) for k, v in vars(summary).items()} for summary in self.summaries},
            "overlap": {
                name: {other: _plain(float(share)) for other, share in zip(names, shares, strict=True)}
                for name, shares in zip(names, self.overlap, strict=True)
            },
            **({"held_out": asdict(self.held_out)} if self.held_out else {}),
        }

    def lines(self) -> list[str]:
        """Return lines for the terminal: one a method, then how much of each selection the others share."""
        tasks = list(self.summaries[0].tasks) if self.summaries else []
        figures = ["rows", "tokens", "score", "agreement", "loss", "clusters", "repeated"]
        rows = [
            [
                summary.method, f"{summary.rows:,}", f"{summary.tokens:,}", f"{summary.score:.3g}",
                f"{summary.agreement:.3f}", f"{summary.loss:.3f}", f"{summary.clusters}/{self.n_clusters}",
                f"{summary.repeated}",
                *(f"{summary.tasks[task]:.3g}" for task in tasks), f"{summary.seconds:.2f}",
            ]
            for summary in self.summaries
        ]  # fmt: skip
        names = [summary.method for summary in self.summaries]
        shares = [
            [name, *("" if a == b else f"{share:.0%}" for b, share in enumerate(row))]
            for a, (name, row) in enumerate(zip(names, self.overlap, strict=True))
        ]
        shared, own = split_notes({summary.method: summary.notes for summary in self.summaries})
        notes = [*shared, *(f"{method}: {note}" for method, own_notes in own.items() for note in own_notes)]
        amount = f"{self.limit.amount:,.0f} {self.limit.unit}"
        return [
            f"{amount} of {self.pool:,} rows, by each method (means; repeated: rows equal to an earlier row)",
            *_table([["method", *figures, *tasks, "seconds"], *rows]),
            *self._source_lines(),
            "",
            "share of the row's selection that the column's method selects too",
            *_table([["", *names], *shares]),
            *(["", *self.held_out.lines()] if self.held_out else []),
            *(["", *notes] if notes else []),
        ]

    def _source_lines(self) -> list[str]:
        """Rows of each source, a column each; those with most rows, where there are many."""
        totals: Counter[str] = Counter()
        for summary in self.summaries:
            totals.update(summary.sources)
        shown = [name for name, _ in totals.most_common(_MOST_SOURCES)]
        if len(totals) < 2:
            return []
        cells = [
            [summary.method, *(f"{summary.sources.get(name, 0):,}" for name in shown)] for summary in self.summaries
        ]
        more = f" (the {len(shown)} with most rows of {len(totals)})" if len(totals) > len(shown) else ""
        return ["", f"rows by source{more}", *_table([["method", *shown], *cells])]


def compare(
    eligible: Eligible, methods: Sequence[str], limit: Limit, config: Config, clock: Any, n_clusters: int
) -> Comparison:
    """Select by each of `methods`. The sweep has labels, also for methods that draw from no clusters.

    Args:
        eligible: the rows of the finished sweep that may be chosen.
        methods: names of METHODS.
        limit: of each method.
        config: the other options of a selection.
        clock: returns seconds.
        n_clusters: clusters with at least one row.
    """
    sweep = eligible.sweep
    summaries, rows_by_method, voters = [], [], sweep.survey.voters
    neighbours = {method: n for method in methods if (n := METHODS[method].neighbours(config))}
    sweep.neighbour_cache.most = max(neighbours.values(), default=0)
    for method in methods:
        start = clock()
        bare = eligible if METHODS[method].clusters else eligible.without_clusters()
        scored = choose(bare, limit, config.with_options(method=method))
        seconds = clock() - start
        if neighbours and method == list(neighbours)[-1]:
            sweep.neighbour_cache.forget()
        rows = scored.rows
        columns = sweep.row_columns(rows)
        summaries.append(
            MethodSummary(
                method=method,
                rows=len(rows),
                tokens=int(columns["tokens"].sum()),
                score=_mean(columns["score"]) if voters else float("nan"),
                agreement=_mean(columns["votes"]) / voters if voters else float("nan"),
                loss=_mean(columns["loss"]),
                clusters=len(np.unique(columns["label"])),
                repeated=len(rows) - len(np.unique(sweep.column("hash", rows))),
                sources=scored.sources,
                similar=scored.similar,
                tasks=dict(zip(sweep.tasks.names, map(_mean, scored.by_task.T), strict=True)),
                seconds=seconds,
                notes=[*scored.warnings, *scored.notes],
            )
        )
        rows_by_method.append(rows)
    shares = [[_mean(np.isin(a, b)) for b in rows_by_method] for a in rows_by_method]
    return Comparison(limit, sweep.survey.rows, n_clusters, summaries, np.array(shares), rows_by_method)


def split_notes(notes: Mapping[str, Sequence[str]]) -> tuple[list[str], dict[str, list[str]]]:
    """Return the notes that each of several selections has, and by selection the others."""
    first = next(iter(notes.values()), ())
    shared = [note for note in first if all(note in each for each in notes.values())] if len(notes) > 1 else []
    return shared, {name: [note for note in each if note not in shared] for name, each in notes.items()}


def _table(cells: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join([first.lstrip().ljust(widths[0]), *others]).rstrip())
    return lines


def _mean(x: np.ndarray) -> float:
    return float(np.mean(x, dtype=np.float64)) if len(x) else float("nan")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return None if isinstance(value, float) and not np.isfinite(value) else value
