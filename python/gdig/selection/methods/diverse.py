"""Diverse, a baseline: even draws from the clusters, without the seeds."""

from __future__ import annotations

from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.selection.draw import draw
from gdig.selection.method import FinishedSweep, Picked


def diverse(sweep: FinishedSweep, limit: Limit, random_seed: int, options: Config) -> Picked:
    """Pick rows evenly from the clusters. The seeds have no vote."""
    return draw(sweep, limit, random_seed, options)
