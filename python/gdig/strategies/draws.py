"""G-DIG and its baselines that draw: from the clusters, or from all rows."""

from __future__ import annotations

from dataclasses import replace

from gdig import _native
from gdig.config import Budget, Config
from gdig.stages.quality import Survey, threshold, wanted_votes
from gdig.strategies.base import Picked, Swept


def gdig(swept: Swept, budget: Budget, seed: int, options: Config) -> Picked:
    """Rows that all the seeds want (arXiv 2405.12915, equation 4), drawn evenly from the clusters.

    When fewer than the budget reach agreement `tau`, it is lowered to the most that fills the budget, and said so.
    """
    votes = threshold(swept.survey, options.tau, budget)
    return _draw(swept, budget, seed, options, votes, (_agreed(swept.survey, options.tau, votes),))


def diverse(swept: Swept, budget: Budget, seed: int, options: Config) -> Picked:
    """Rows drawn evenly from the clusters, whatever the seeds say."""
    return _draw(swept, budget, seed, options)


def random(swept: Swept, budget: Budget, seed: int, options: Config) -> Picked:
    """Rows drawn uniformly from all that are valid."""
    return _draw(replace(swept, labels=None), budget, seed, options.with_options(draw="random"))


def _draw(
    swept: Swept, budget: Budget, seed: int, options: Config, least_votes: int = 0, notes: tuple[str, ...] = ()
) -> Picked:
    rows = _native.draw_rows(
        swept.store._native,
        swept.labels,
        least_votes=least_votes,
        by_score=options.score if options.draw == "score" else None,
        quotas=options.quotas,
        limit=("tokens" if budget.unit == "tokens" else "rows", int(budget.amount)),
        random_seed=seed,
        tasks=swept.voting,
    )
    return Picked(rows, notes=notes)


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
