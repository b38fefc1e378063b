"""Draws of rows, evenly from the clusters or uniformly."""

from __future__ import annotations

from gdig import _native
from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.selection.method import FinishedSweep, Picked


def draw(
    sweep: FinishedSweep,
    limit: Limit,
    random_seed: int,
    options: Config,
    least_votes: int = 0,
    notes: tuple[str, ...] = (),
) -> Picked:
    """Draw rows with at least `least_votes` votes, evenly from the clusters where there are any."""
    rows = _native.draw_rows(
        sweep.store._native,
        sweep.labels,
        least_votes=least_votes,
        by_score=options.score if options.draw == "score" else None,
        quotas=options.quotas,
        limit=limit,
        random_seed=random_seed,
        tasks=sweep.voting,
    )
    return Picked(rows, notes=notes)
