"""Draws of rows, evenly from the clusters or uniformly."""

from __future__ import annotations

from gdig import _native
from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.selection.method import FinishedSweep, Picked

TEMPERATURE = 0.5
"""Standard deviations of the score that weigh as much as one unit of Gumbel noise."""


def draw(
    sweep: FinishedSweep,
    limit: Limit,
    random_seed: int,
    options: Config,
    *,
    least_votes: int = 0,
    notes: tuple[str, ...] = (),
) -> Picked:
    """Draw rows with at least so many votes, evenly from the clusters where there are any."""
    rows = _native.draw_rows(
        sweep.store._native,
        sweep.labels,
        sweep.judge,
        least_votes=least_votes,
        order=options.draw,
        scale=_gumbel_scale(sweep),
        quotas=options.quotas,
        limit=limit,
        random_seed=random_seed,
    )
    return Picked(rows, notes=notes)


def _gumbel_scale(sweep: FinishedSweep) -> float:
    """Return the factor of the scores beside Gumbel noise: one over the temperature times their standard deviation."""
    deviation = sweep.survey.score_deviation
    return 1 / (TEMPERATURE * deviation) if deviation > 0 else 0.0
