"""Random, the baseline of every method."""

from __future__ import annotations

from dataclasses import replace

from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.selection.draw import draw
from gdig.selection.method import FinishedSweep, Picked


def random(sweep: FinishedSweep, limit: Limit, random_seed: int, options: Config) -> Picked:
    """Pick rows uniformly from all valid rows; with source_quotas="equal", equally many from each source."""
    return draw(replace(sweep, labels=None), limit, random_seed, options.with_options(draw="random"))
