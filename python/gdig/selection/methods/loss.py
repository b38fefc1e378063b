"""Loss: the rows with the lowest loss."""

from __future__ import annotations

from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.selection.best import best
from gdig.selection.method import Picked, Swept


def loss(swept: Swept, limit: Limit, random_seed: int, options: Config) -> Picked:
    """Rows with the lowest loss, ties by row."""
    return best(swept, "loss", limit)
