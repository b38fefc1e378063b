"""The published choice of G-DIG (arXiv 2405.12915): rows that most seeds agree on, drawn evenly from the clusters."""

from __future__ import annotations

from dataclasses import replace

from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.nouns import counted
from gdig.selection.blend import KNOWN, pool_shift
from gdig.selection.draw import draw
from gdig.selection.method import FinishedSweep, Picked
from gdig.selection.survey import Survey, threshold, wanted_votes


def agreement(sweep: FinishedSweep, limit: Limit, random_seed: int, options: Config) -> Picked:
    """Pick rows whose agreement reaches `tau` (equation 4), drawn evenly from the clusters.

    When too few rows reach `tau`, the threshold falls to the largest agreement that fills the budget, and a note says
    so. A warning says when most of the pool passes because the model was not tuned on it.
    """
    votes = threshold(sweep.survey, options.tau, limit)
    note = _agreed(sweep.survey, options.tau, votes)
    picked = draw(sweep, limit, random_seed, options, least_votes=votes, notes=(note,))
    return replace(picked, warnings=_warnings(sweep, options.tau))


def _warnings(sweep: FinishedSweep, tau: float) -> tuple[str, ...]:
    """Return the warning that `tau` hardly chooses, or none. Where most rows reach it, that takes three passes."""
    reached = sweep.survey.reach(wanted_votes(tau, sweep.survey.voters))
    if 2 * reached <= sweep.survey.valid or sweep.judge.baselines is not None:
        return ()
    if (shift := pool_shift(sweep)) < KNOWN:
        return ()
    return (
        f"{reached / sweep.survey.valid:.0%} of the pool reaches agreement {tau:g}, so the threshold hardly chooses: "
        f"the pool's mean influence on a seed is {shift:.2g} of its deviation, as in a model that was not tuned on the "
        "pool; take method=gdig, or relative_to=pool",
    )


def _agreed(survey: Survey, tau: float, votes: int) -> str:
    """Return the note on the threshold: how many rows reach tau, or to what tau was lowered."""
    n, wanted = survey.voters, wanted_votes(tau, survey.voters)
    n_rows = survey.reach(votes)
    if votes >= wanted:
        return f"{_reaching(n_rows)} agreement {tau:g} (help at least {votes} of {n} {survey.kind})"
    return (
        f"only {_reaching(survey.reach(wanted))} agreement {tau:g}, too few for the budget: lowered to {votes / n:.4g} "
        f"(at least {votes} of {n} {survey.kind}), which {_reaching(n_rows)}"
    )


def _reaching(n_rows: int) -> str:
    return counted(n_rows, "row reaches", "rows reach")
