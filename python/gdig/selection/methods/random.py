"""Random: the baseline of every method."""

from __future__ import annotations

from dataclasses import replace

from gdig.config.budget import Budget
from gdig.config.config import Config
from gdig.selection.draw import draw
from gdig.selection.method import Picked, Swept


def random(swept: Swept, budget: Budget, random_seed: int, options: Config) -> Picked:
    """Rows drawn uniformly from all that are valid."""
    return draw(replace(swept, labels=None), budget, random_seed, options.with_options(draw="random"))
