"""Loss, a baseline: the rows that the model finds easiest."""

from __future__ import annotations

from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.selection.best import best
from gdig.selection.method import FinishedSweep, Picked


def loss(sweep: FinishedSweep, limit: Limit, random_seed: int, options: Config) -> Picked:
    """Pick the rows with the lowest loss, ties by row."""
    return best(sweep, "loss", limit)
