"""RDS+ (arXiv 2503.01807): rows whose hidden states are near to those of a seed; seeds take turns."""

from __future__ import annotations

from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.selection.hidden_cosines import hidden_cosines
from gdig.selection.method import FinishedSweep, Picked
from gdig.selection.turns import pick_by_relevance


def rds(sweep: FinishedSweep, limit: Limit, random_seed: int, options: Config) -> Picked:
    """Pick rows by the cosine of their hidden-state sketch with each seed's, as `over_seeds` says, ties by row."""
    cosines, n_seeds = hidden_cosines(sweep)
    return pick_by_relevance(sweep, cosines, n_seeds, limit, options)
