"""Diverse: the clusters alone."""

from __future__ import annotations

from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.selection.draw import draw
from gdig.selection.method import FinishedSweep, Picked


def diverse(sweep: FinishedSweep, limit: Limit, random_seed: int, options: Config) -> Picked:
    """Rows drawn evenly from the clusters, whatever the seeds say."""
    return draw(sweep, limit, random_seed, options)
