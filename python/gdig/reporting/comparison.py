"""Selections side by side as a page: of several methods from one run, or of two runs over the same pool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gdig.data.show import row_text
from gdig.errors import OtherRunError
from gdig.pages.render import render, write_page
from gdig.reporting.bounds import SEED_BYTES, SEEDS, fitting
from gdig.reporting.cards import row_cards
from gdig.reporting.facts import Overlap, RowCard
from gdig.selection.compare import HeldOut, split_notes
from gdig.selection.finished_run import FinishedRun

ALONE = 100
"""Rows that a selection has and no other has, of those shown with their texts."""


@dataclass(frozen=True)
class Side:
    """One selection. rows, tokens: how many. score, agreement, loss: means. alone: how many rows it has and no other
    has; shown: the first of these. notes: what the method said."""

    name: str
    rows: int
    tokens: int
    score: float | None
    agreement: float | None
    loss: float
    alone: int
    shown: tuple[int, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ComparisonFacts:
    """All that the page says. everywhere: rows that all selections have. notes: what holds for all selections.
    held_out: what trainings on the selections give, where they were asked for."""

    run: str
    sides: tuple[Side, ...]
    overlap: Overlap
    everywhere: int
    rows: dict[int, RowCard]
    seed_texts: dict[int, str]
    notes: tuple[str, ...]
    held_out: HeldOut | None


def gather_comparison(
    run: FinishedRun,
    selections: Mapping[str, NDArray[np.int64]],
    notes: Mapping[str, list[str]] | None = None,
    held_out: HeldOut | None = None,
) -> ComparisonFacts:
    """Compare selections from the pool of a run, by the numbers of its sweep.

    Args:
        run: the run.
        selections: rows in their order, by the name of the selection.
        notes: what the methods said.
        held_out: what trainings on the selections give.
    """
    shared, own = split_notes(notes or {})
    n = run.sweep.survey.rows
    times = np.zeros(n, np.int32)
    for rows in selections.values():
        times[rows] += 1
    voters = run.sweep.survey.voters
    sides = []
    for name, rows in selections.items():
        columns = run.sweep.row_columns(np.ascontiguousarray(rows))
        alone = rows[times[rows] == 1]
        sides.append(
            Side(
                name,
                len(rows),
                int(columns["tokens"].sum()),
                _mean(columns["score"]) if voters else None,
                _mean(columns["votes"]) / voters if voters else None,
                _mean(columns["loss"]),
                len(alone),
                tuple(alone[:ALONE].tolist()),
                tuple(own.get(name, ())),
            )
        )
    shares = tuple(tuple(_mean(np.isin(a, b)) for b in selections.values()) for a in selections.values())
    named = [row for side in sides for row in side.shown]
    cards, seeds = row_cards(run, named, {}), run.work.seed_corpus
    effects = sorted({seed for card in cards.values() for seed, _ in (*card.helped, *card.harmed)})
    return ComparisonFacts(
        str(run.config.run_path),
        tuple(sides),
        Overlap(tuple(selections), shares, ()),
        int((times == len(selections)).sum()),
        cards,
        {
            seed: fitting(row_text(content, 200), SEED_BYTES)
            for seed, content in zip(effects[:SEEDS], seeds.stream(effects[:SEEDS]), strict=True)
        },
        tuple(shared),
        held_out,
    )


def require_same_pool(run: FinishedRun, other: FinishedRun) -> None:
    """Raise RunError if two runs are not over the same pool: their rows would not be the same."""
    files, other_files = (each.record.inputs.get("candidates", {}) for each in (run, other))
    if list(files.values()) != list(other_files.values()):
        raise OtherRunError(
            f"{other.config.run_path}: expected a run over the same files of candidates as {run.config.run_path}, "
            "got others; rows are compared by their numbers"
        )


def write_comparison(facts: ComparisonFacts, path: Path) -> None:
    """Write the page."""
    data = asdict(facts)
    write_page(path, render("comparison.html", facts=facts, data={**data, "n_chosen": 0}))


def comparison_lines(facts: ComparisonFacts) -> list[str]:
    """Return lines for the terminal."""
    lines = []
    for side, shares in zip(facts.sides, facts.overlap.shares, strict=True):
        others = [
            f"{share:.0%} of them in {name}"
            for name, share in zip(facts.overlap.names, shares, strict=True)
            if name != side.name
        ]
        score = "" if side.score is None else f", mean score {side.score:.3g}"
        lines.append(f"{side.name}: {side.rows:,} rows ({side.tokens:,} tokens){score}; {', '.join(others)}")
    return lines


def _mean(x: NDArray) -> float:
    return float(np.mean(x, dtype=np.float64)) if len(x) else 0.0
