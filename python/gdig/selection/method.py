"""What a method of choosing is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.selection.neighbours import Kept
from gdig.selection.survey import Survey
from gdig.selection.tasks import Tasks
from gdig.store.gather import gather
from gdig.store.sketches import SketchStore
from gdig.store.tensor_file import read_tensors


@dataclass(frozen=True)
class Checkpoint:
    """A swept checkpoint of a training run (gdig.passes.adam_pass).

    path: where it was. store: `cosine` with each seed [n, S], sketch of Adam's direction,
    loss, tokens, valid of each row. learning_rate: of the epoch that ended with it. seed_sketches: file of the
    seeds' sketches.
    """

    path: str
    store: SketchStore
    learning_rate: float
    seed_sketches: Path

    def seed_features(self) -> np.ndarray:
        """Sketches of the seeds' gradients, of the same projections and scale: float32 [S, dim]."""
        return read_tensors(self.seed_sketches)[0]["sketch"]


@dataclass(frozen=True)
class Swept:
    """A finished sweep, as every method sees it: nothing in it needs the model.

    store: influence [n, S], sketch, loss, tokens, valid of each row, in shards. survey: what they hold, in numbers.
    labels: directory of the label files; None unless the method draws from clusters (`Strategy.clusters`).
    centroids: file of the k-means fit, with the labels. tasks: which seed is of which task.
    checkpoints: those of a training run, in their order. seed_sketches: file of the seeds' own sketches, for methods
    that ask for them. difficulty: file that gdig score-net may have left. kept: neighbours of the sketches, for the
    next method that asks for them.
    """

    store: SketchStore
    survey: Survey
    labels: Path | None = None
    centroids: Path | None = None
    tasks: Tasks = field(default_factory=Tasks)
    checkpoints: tuple[Checkpoint, ...] = ()
    seed_sketches: Path | None = None
    difficulty: Path | None = None
    kept: Kept = field(default_factory=Kept, compare=False)

    def seed_features(self) -> np.ndarray:
        """The seeds' own sketches, of the same projections and scale as the pool's: float32 [S, dim].

        Raises:
            StoreError: when the file is missing or damaged.
        """
        assert self.seed_sketches is not None, "this sweep was opened without the file of the seeds' sketches"
        return read_tensors(self.seed_sketches)[0]["sketch"]

    @property
    def voting(self) -> np.ndarray | None:
        """Each seed's task, int64 [S], where tasks vote and not seeds."""
        return self.tasks.of_seed if self.survey.kind == "tasks" else None

    def column(self, name: str, rows: np.ndarray) -> np.ndarray:
        """One of the sweep's tensors for some rows, [n] or [n, ...]; reads those rows of the shards alone."""
        return gather(self.store, name, rows)

    def without_clusters(self) -> Swept:
        """The same for a method that draws from none."""
        return replace(self, labels=None, centroids=None)


@dataclass(frozen=True)
class Picked:
    """What a method chose.

    rows: int64 [n], rows of the pool, best first where the method has an order. reasons: why each of them, arrays [n]
    by name, written beside the rows. notes: sentences for the user. shortfall: why there are fewer than the budget asks
    for; None when there are not.
    """

    rows: np.ndarray
    reasons: Mapping[str, np.ndarray] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    shortfall: str | None = None


Function = Callable[[Swept, Limit, int, Config], Picked]
"""(sweep, limit, random seed of every draw, options) -> what the method picks."""


@dataclass(frozen=True)
class Strategy:
    """A method of choosing: one function in one file.

    ordered: its rows come in an order of their own, best first; the others are put in order of their score. clusters:
    it needs the sketches clustered first. checkpoints: it needs those of a training run. neighbours: how many of each
    row's nearest sketches it asks for, by the options.
    """

    pick: Function
    ordered: bool = False
    clusters: bool = False
    checkpoints: bool = False
    neighbours: Callable[[Config], int] = lambda options: 0


def within(rows: np.ndarray, tokens: np.ndarray, limit: Limit) -> int:
    """How many of `rows`, in their order, the limit allows; `tokens` int [n] are theirs."""
    if limit.unit == "rows":
        return min(len(rows), limit.amount)
    return int(np.searchsorted(np.cumsum(tokens, dtype=np.int64), limit.amount, side="right"))


class Ordered(Protocol):
    """Rows int64 [n] in the order taken."""

    @property
    def rows(self) -> np.ndarray:
        """Rows of the pool."""


Taken = TypeVar("Taken", bound=Ordered)


def taken_within(take: Callable[[int], Taken], swept: Swept, limit: Limit) -> tuple[Taken, int]:
    """Let a method that counts rows keep a limit of tokens: take more until the next row would exceed it.

    Args:
        take: (rows to take, at most) -> the rows, in an order that more of them only go on with.
        swept: of these rows.
        limit: in rows or tokens.

    Returns:
        What `take` found, and how many of its rows, from the first on, are within the limit.
    """
    if limit.unit == "rows":
        found = take(limit.amount)
        return found, len(found.rows)
    valid = swept.survey.valid
    per_row = max(1.0, swept.survey.reach(0, "tokens") / max(1, valid))
    n = min(valid, int(1.05 * limit.amount / per_row) + 64)
    while True:
        found = take(n)
        allowed = within(found.rows, swept.column("tokens", found.rows), limit)
        if allowed < len(found.rows) or n >= valid:
            return found, allowed
        n = min(valid, 2 * n)
