"""Round robin (arXiv 2503.01807): the seeds take turns, and each takes the free row that is most relevant to it."""

from __future__ import annotations

from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.selection.method import FinishedSweep, Picked
from gdig.selection.relevance import RELEVANCE
from gdig.selection.turns import pick_by_turns


def round_robin(sweep: FinishedSweep, limit: Limit, random_seed: int, options: Config) -> Picked:
    """Pick rows by turns of the seeds, by the option `relevance`."""
    relevance = RELEVANCE[options.relevance](sweep, options)
    return pick_by_turns(sweep, relevance, sweep.survey.n_seeds, limit, options)
