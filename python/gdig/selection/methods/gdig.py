"""G-DIG and its baselines that draw: from the clusters, or from all rows."""

from __future__ import annotations

from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.selection.draw import draw
from gdig.selection.method import FinishedSweep, Picked
from gdig.selection.survey import Survey, threshold, wanted_votes


def gdig(sweep: FinishedSweep, limit: Limit, random_seed: int, options: Config) -> Picked:
    """Rows that all the seeds want (arXiv 2405.12915, equation 4), drawn evenly from the clusters.

    When fewer than the budget reach agreement `tau`, it is lowered to the most that fills the budget, and said so.
    """
    votes = threshold(sweep.survey, options.tau, limit)
    return draw(sweep, limit, random_seed, options, votes, (_agreed(sweep.survey, options.tau, votes),))


def _agreed(survey: Survey, tau: float, votes: int) -> str:
    """What to say of the threshold: whether tau was reached, or to what it was lowered."""
    n, wanted = survey.voters, wanted_votes(tau, survey.voters)
    found = survey.reach(votes)
    if votes >= wanted:
        return f"{found} rows reach agreement {tau:g} (help at least {votes} of {n} {survey.kind})"
    return (
        f"only {survey.reach(wanted)} rows reach agreement {tau:g}, too few for the budget: lowered to {votes / n:.4g} "
        f"(at least {votes} of {n} {survey.kind}), which {found} rows reach"
    )
