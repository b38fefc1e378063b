"""What a selection method is given, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from gdig import _native
from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.selection.judge import Judge
from gdig.selection.neighbours import NeighbourCache
from gdig.selection.sources import Sources
from gdig.selection.survey import Survey, survey
from gdig.selection.tasks import Tasks
from gdig.selection.token_files import TokenFiles
from gdig.store.gather import gather
from gdig.store.sketches import SketchStore
from gdig.store.tensor_file import CheckedFile


@dataclass(frozen=True)
class Checkpoint:
    """A training checkpoint that was swept (gdig.passes.adam_pass).

    path: the checkpoint's directory. store: of each row `cosine` with each seed [n, S], sketch of Adam's direction,
    loss, tokens and valid. learning_rate: of the epoch that ends with the checkpoint. seed_sketches: file of the seeds'
    sketches.
    """

    path: str
    store: SketchStore
    learning_rate: float
    seed_sketches: CheckedFile

    def seed_features(self) -> np.ndarray:
        """Return the sketches of the seeds' gradients, in the projections and scale of `store`: float32 [S, dim]."""
        tensors, _ = self.seed_sketches.read()
        tensors.shaped({"dim": self.store.dim}, sketch="float32 S dim")
        return tensors["sketch"]


@dataclass(frozen=True)
class FinishedSweep:
    """A finished sweep, as every method sees it. No method needs the model.

    store: influence [n, S] ([n, 0] without gradients), sketch, hidden, loss, tokens and valid of each row, in shards.
    survey: the sweep in numbers.
    labels: directory of the label files; None unless the method draws from clusters (`MethodSpec.clusters`).
    centroids: file of the k-means fit that made the labels. tasks: the task of each seed.
    checkpoints: training checkpoints, in their order. seed_sketches: file of the seeds' own sketches. difficulty: file
    that gdig score-net may have left. tokens: token ids of rows and seeds. sources: which source each row is of.
    neighbour_cache: neighbours of the sketches that an earlier method searched for.
    metric_scale: scale of the sketches when their products are those of the influence, <G, H^-1 G'>; else None.
    """

    store: SketchStore
    survey: Survey
    labels: Path | None = None
    centroids: Path | None = None
    tasks: Tasks = field(default_factory=Tasks)
    checkpoints: tuple[Checkpoint, ...] = ()
    seed_sketches: CheckedFile | None = None
    difficulty: Path | None = None
    tokens: TokenFiles | None = None
    sources: Sources = field(default_factory=Sources)
    neighbour_cache: NeighbourCache = field(default_factory=NeighbourCache, compare=False)
    metric_scale: float | None = None

    def seed_influence(self) -> np.ndarray:
        """Return the influence of the seeds on one another, rows on columns: float32 [S, S].

        Raises:
            StoreError: when the file is missing or damaged.
        """
        return self._of_seeds("influence", "float32 S S", self.store.dim)

    def seed_features(self) -> np.ndarray:
        """Return the seeds' own sketches, in the projections and scale of the pool's: float32 [S, dim].

        Raises:
            StoreError: when the file is missing or damaged.
        """
        return self._of_seeds("sketch", "float32 S dim", self.store.dim)

    def seed_hidden(self) -> np.ndarray:
        """Return the seeds' own hidden-state sketches, of unit length: float16 [S, dim].

        Raises:
            StoreError: when the file is missing or damaged.
        """
        shards = self.store.shards if "hidden" in self.store.tensor_names else []
        dim = self.store.tensor(shards[0], "hidden").shape[1] if shards else None
        return self._of_seeds("hidden", "float16 S dim", dim)

    def _of_seeds(self, name: str, shape: str, dim: int | None) -> np.ndarray:
        assert self.seed_sketches is not None, "this sweep was opened without the file of the seeds' sketches"
        tensors, _ = self.seed_sketches.read()
        n_seeds = {"S": self.survey.n_seeds} if self.survey.n_seeds else {}
        tensors.shaped({**({} if dim is None else {"dim": dim}), **n_seeds}, **{name: shape})
        return tensors[name]

    def token_files(self) -> TokenFiles:
        """Return the token ids of rows and seeds."""
        assert self.tokens is not None, "this sweep was opened without the token files"
        return self.tokens

    @property
    def judge(self) -> Judge:
        """How influence becomes votes and a score."""
        return self.survey.judge

    def column(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Return one tensor of the sweep for some rows, [n] or [n, ...]; only these rows are read."""
        return gather(self.store, name, rows)

    def row_columns(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return what sweep and clusters say of some rows, int64 [n], in their order.

        Columns [n] by name: votes uint32, score float32, loss float32, tokens int64, and with clusters label uint32 and
        distance float32.
        """
        return _native.row_columns(self.store._native, self.labels, rows, self.judge)

    def among(self, eligible: NDArray[np.bool_]) -> FinishedSweep:
        """Return the sweep as if only some of its valid rows were valid, so that no method picks another row.

        The judge stays: the same influence gives the same score.

        Args:
            eligible: [N] bool. Memory holds a byte a row.
        """
        store = self.store.masked(eligible)
        checkpoints = tuple(replace(each, store=each.store.masked(eligible)) for each in self.checkpoints)
        return replace(
            self,
            store=store,
            survey=survey(store, self.judge),
            checkpoints=checkpoints,
            neighbour_cache=NeighbourCache(),
        )

    def without_clusters(self) -> FinishedSweep:
        """Return the sweep as a method sees it that draws from no clusters."""
        return replace(self, labels=None, centroids=None)


@dataclass(frozen=True)
class Picked:
    """What a method returns.

    rows: int64 [n], rows of the pool, best first where the method has an order. reasons: arrays [n] by name, which the
    output shows beside each row. notes: sentences for the user. shortfall: why the rows are fewer than the limit
    allows; None when they are not. ordered: whether the rows come best first; None for what the MethodSpec says.
    warnings: what makes the choice less good than it seems.
    """

    rows: np.ndarray
    reasons: Mapping[str, np.ndarray] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    shortfall: str | None = None
    ordered: bool | None = None
    warnings: tuple[str, ...] = ()


Function = Callable[[FinishedSweep, Limit, int, Config], Picked]
"""(sweep, limit, random_seed of every draw, options) -> the rows that the method picks."""


@dataclass(frozen=True)
class MethodSpec:
    """A selection method: one function in one file, and what the function needs.

    ordered: the rows come best first; the rows of other methods are sorted by their score. nested: the rows of a
    smaller budget are the first of a larger one's, so that each row has a place in the pool's order. clusters: the
    sketches must be clustered first. checkpoints: training checkpoints must be swept. neighbours: how many nearest
    sketches of each row the method asks for, by the options. gradients: the run must have gradients. tokens: the
    token files must be there. decide: of a method that follows another one, which one that is in a pool, and why.
    """

    pick: Function
    ordered: bool = False
    nested: bool = False
    clusters: bool = False
    checkpoints: bool = False
    neighbours: Callable[[Config], int] = lambda options: 0
    gradients: bool = True
    tokens: bool = False
    decide: Callable[[FinishedSweep], tuple[str, str]] | None = None


def within(rows: np.ndarray, tokens: np.ndarray, limit: Limit) -> int:
    """Return how many of `rows`, from the first on, the limit allows. `tokens`: int [n], of each row."""
    if limit.unit == "rows":
        return min(len(rows), limit.amount)
    return int(np.searchsorted(np.cumsum(tokens, dtype=np.int64), limit.amount, side="right"))


class HasRows(Protocol):
    """A result with rows, in the order in which a method takes them."""

    @property
    def rows(self) -> np.ndarray:
        """Rows of the pool, int64 [n]."""


class OrderedRows(NamedTuple):
    """Rows in the order in which a method takes them, and nothing more: int64 [n]."""

    rows: NDArray[np.int64]


Result = TypeVar("Result", bound=HasRows)


def rows_within(take: Callable[[int], Result], sweep: FinishedSweep, limit: Limit) -> tuple[Result, int]:
    """Apply a limit of tokens to a method that counts rows: take more rows until the next row exceeds the limit.

    Args:
        take: (most rows to take) -> a result. The rows of a larger result begin with those of a smaller one.
        sweep: holds the tokens of the rows.
        limit: in rows or tokens.

    Returns:
        The result of `take`, and how many of its rows, from the first on, are within the limit.
    """
    if limit.unit == "rows":
        result = take(limit.amount)
        return result, len(result.rows)
    valid = sweep.survey.valid
    per_row = max(1.0, sweep.survey.reach(0, "tokens") / max(1, valid))
    n = min(valid, int(1.05 * limit.amount / per_row) + 64)
    while True:
        result = take(n)
        allowed = within(result.rows, sweep.column("tokens", result.rows), limit)
        if allowed < len(result.rows) or n >= valid:
            return result, allowed
        n = min(valid, 2 * n)
