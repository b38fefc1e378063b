"""Round robin (arXiv 2503.01807): the seeds take turns, and each takes the free row that is most relevant to it."""

from __future__ import annotations

from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.selection.hidden_cosines import hidden_cosines
from gdig.selection.method import FinishedSweep, Picked
from gdig.selection.relevance import RELEVANCE
from gdig.selection.token_bm25 import token_bm25
from gdig.selection.turns import pick_by_turns

NO_GRADIENTS = ("hidden", "bm25")
"""Relevances that need none."""


def round_robin(sweep: FinishedSweep, limit: Limit, random_seed: int, options: Config) -> Picked:
    """Pick rows by turns of the seeds, by the option `relevance`."""
    if options.relevance == "hidden":
        relevance, n_seeds = hidden_cosines(sweep)
        return pick_by_turns(sweep, relevance, n_seeds, limit, options)
    if options.relevance == "bm25":
        relevance, n_seeds = token_bm25(sweep)
        return pick_by_turns(sweep, relevance, n_seeds, limit, options)
    return pick_by_turns(sweep, RELEVANCE[options.relevance](sweep, options), sweep.survey.n_seeds, limit, options)
