"""What several methods choose from one sweep, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gdig import _native
from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.selection.choose import choose
from gdig.selection.method import Swept
from gdig.selection.methods import METHODS


@dataclass(frozen=True)
class Chosen:
    """One method's choice in numbers.

    rows: how many. tokens: theirs. score: mean score. agreement: mean share of the voters. loss: mean. clusters:
    how many they come from. repeated: rows whose tokens equal those of an earlier one. tasks: mean influence on each
    task's seeds. seconds: that choosing took; to find neighbours is counted where they are asked for first. notes: what
    the method said. Means are NaN where no row was chosen.
    """

    method: str
    rows: int
    tokens: int
    score: float
    agreement: float
    loss: float
    clusters: int
    repeated: int
    tasks: dict[str, float]
    seconds: float
    notes: list[str]


@dataclass(frozen=True)
class Comparison:
    """Choices of several methods. overlap float64 [m, m]: share of the first one's rows that the second chose too."""

    limit: Limit
    pool: int
    n_clusters: int
    chosen: list[Chosen]
    overlap: np.ndarray

    def as_json(self) -> dict[str, Any]:
        """For a file: names instead of places, None for NaN."""
        names = [one.method for one in self.chosen]
        return {
            "budget": {"unit": self.limit.unit, "amount": self.limit.amount},
            "rows": self.pool,
            "clusters": self.n_clusters,
            "methods": {one.method: {k: _plain(v) for k, v in vars(one).items()} for one in self.chosen},
            "overlap": {
                name: {other: _plain(float(share)) for other, share in zip(names, shares, strict=True)}
                for name, shares in zip(names, self.overlap, strict=True)
            },
        }

    def lines(self) -> list[str]:
        """For the terminal: a row a method, then how much of each choice the others share."""
        tasks = list(self.chosen[0].tasks) if self.chosen else []
        figures = ["rows", "tokens", "score", "agreement", "loss", "clusters", "repeated"]
        rows = [
            [
                one.method, f"{one.rows:,}", f"{one.tokens:,}", f"{one.score:.3g}", f"{one.agreement:.3f}",
                f"{one.loss:.3f}", f"{one.clusters}/{self.n_clusters}", f"{one.repeated}",
                *(f"{one.tasks[task]:.3g}" for task in tasks), f"{one.seconds:.2f}",
            ]
            for one in self.chosen
        ]  # fmt: skip
        names = [one.method for one in self.chosen]
        shares = [
            [name, *("" if a == b else f"{share:.0%}" for b, share in enumerate(row))]
            for a, (name, row) in enumerate(zip(names, self.overlap, strict=True))
        ]
        notes = [f"{one.method}: {note}" for one in self.chosen for note in one.notes]
        amount = f"{self.limit.amount:,.0f} {self.limit.unit}"
        return [
            f"{amount} of {self.pool:,} rows, by each method (means; repeated: rows equal to an earlier one chosen)",
            *_table([["method", *figures, *tasks, "seconds"], *rows]),
            "",
            "share of a row's choice that the column's method chose too",
            *_table([["", *names], *shares]),
            *(["", *notes] if notes else []),
        ]


def compare(
    swept: Swept, methods: Sequence[str], limit: Limit, config: Config, clock: Any, n_clusters: int
) -> Comparison:
    """Choose by each of `methods`; `swept` has labels, whether a method draws from clusters or not.

    Args:
        swept: the finished sweep, clustered.
        methods: names of METHODS.
        limit: of each method.
        config: the other options of a choice.
        clock: returns seconds.
        n_clusters: clusters with at least one row.
    """
    chosen, taken = [], []
    asking = {method: asked for method in methods if (asked := METHODS[method].neighbours(config))}
    swept.kept.most = max(asking.values(), default=0)
    for method in methods:
        start = clock()
        bare = swept if METHODS[method].clusters else swept.without_clusters()
        choice = choose(bare, limit, config.with_options(method=method))
        seconds = clock() - start
        if asking and method == list(asking)[-1]:
            swept.kept.forget()
        rows = choice.rows
        told = _native.row_columns(swept.store._native, swept.labels, rows, config.score, swept.voting)
        chosen.append(
            Chosen(
                method=method,
                rows=len(rows),
                tokens=int(told["tokens"].sum()),
                score=_mean(told["score"]),
                agreement=_mean(told["votes"]) / max(1, swept.survey.voters),
                loss=_mean(told["loss"]),
                clusters=len(np.unique(told["label"])),
                repeated=len(rows) - len(np.unique(swept.column("hash", rows))),
                tasks=dict(zip(swept.tasks.names, map(_mean, choice.by_task.T), strict=True)),
                seconds=seconds,
                notes=choice.notes,
            )
        )
        taken.append(rows)
    shares = [[_mean(np.isin(a, b)) for b in taken] for a in taken]
    return Comparison(limit, swept.survey.rows, n_clusters, chosen, np.array(shares))


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
        return {name: _plain(one) for name, one in value.items()}
    return None if isinstance(value, float) and not np.isfinite(value) else value
