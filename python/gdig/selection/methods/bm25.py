"""BM25, a baseline without a model: rows that share rare tokens with a seed; seeds take turns."""

from __future__ import annotations

from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.selection.method import FinishedSweep, Picked
from gdig.selection.token_bm25 import token_bm25
from gdig.selection.turns import pick_by_relevance


def bm25(sweep: FinishedSweep, limit: Limit, random_seed: int, options: Config) -> Picked:
    """Pick rows by their BM25 to each seed, as `over_seeds` says, ties by row."""
    scores, n_seeds = token_bm25(sweep)
    return pick_by_relevance(sweep, scores, n_seeds, limit, options)
