"""Random, the baseline of every method."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.errors import NeedsError
from gdig.resampling import resample
from gdig.selection.draw import draw
from gdig.selection.method import FinishedSweep, Picked
from gdig.selection.neighbours import column

_MOST_SHOWN = 20
"""Sources whose numbers of rows a note lists."""


def random(sweep: FinishedSweep, limit: Limit, random_seed: int, options: Config) -> Picked:
    """Pick rows uniformly from all valid rows, or from each source equally many (`balance`)."""
    if options.balance == "source":
        return _balanced(sweep, limit, random_seed)
    return draw(replace(sweep, labels=None), limit, random_seed, options.with_options(draw="random"))


def _balanced(sweep: FinishedSweep, limit: Limit, random_seed: int) -> Picked:
    """Draw equally many rows from each file of the pool; a file that runs short passes its rest on to the others.

    It takes 4 bytes a row, and 4 more for a limit of tokens.
    """
    ends = np.array(sweep.source_ends, np.int64)
    if len(ends) < 2:
        raise NeedsError(
            f"balance='source': expected a pool of at least two files, got {len(ends)}; give the rows of each source "
            "in a file of their own, or leave balance out"
        )
    source_of = np.repeat(np.arange(len(ends), dtype=np.int32), np.diff(ends, prepend=0))
    source_of[column(sweep.store, "valid") == 0] = -1
    tokens = column(sweep.store, "tokens") if limit.unit == "tokens" else None
    rows = resample(source_of, limit.amount, random_seed, costs=tokens)
    counts = np.bincount(source_of[rows], minlength=len(ends)).tolist()
    shown = ", ".join(map(str, counts[:_MOST_SHOWN])) + (", ..." if len(counts) > _MOST_SHOWN else "")
    return Picked(rows, notes=(f"rows from each of {len(ends)} files: {shown}",))
