"""Top, a baseline: the highest scores, without clusters."""

from __future__ import annotations

from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.selection.best import best
from gdig.selection.draw import draw
from gdig.selection.method import FinishedSweep, Picked


def top(sweep: FinishedSweep, limit: Limit, random_seed: int, options: Config) -> Picked:
    """Pick the rows with the highest score, ties by row. With draw="gumbel", the score has noise from a hash."""
    if options.draw == "gumbel":
        return draw(sweep.without_clusters(), limit, random_seed, options)
    return best(sweep, "score", limit)
