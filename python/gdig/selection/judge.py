"""How the influence of a row becomes votes and a score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gdig.config.options import Score


@dataclass(frozen=True)
class Judge:
    """The rule by which the influence of a row becomes votes and a score. The Rust core reads these attributes.

    A seed votes for a row when the influence on the seed exceeds the seed's cut. A task votes for a row when the sum of
    the influence on its seeds exceeds the task's cut. The score is that of the influence less the baselines.

    score: the option `score`. tasks: int64 [S], the task of each seed, when tasks vote; None when seeds vote.
    baselines: float64 [S]; None for 0. cuts: float64 [voters]; None for 0.
    """

    score: Score = "steady"
    tasks: NDArray[np.int64] | None = None
    baselines: NDArray[np.float64] | None = None
    cuts: NDArray[np.float64] | None = None

    @property
    def kind(self) -> Literal["seeds", "tasks"]:
        """Who votes."""
        return "seeds" if self.tasks is None else "tasks"

    def relative(self, influence: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return influence [n, S] less the baselines, float64."""
        x = influence.astype(np.float64)
        return x if self.baselines is None else x - self.baselines

    def score_of(self, influence: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the score of influence [n, S], float64 [n]; that of the Rust core before it is rounded to float32."""
        x = self.relative(influence)
        return x.sum(1) * self.weight_of(influence)

    def weight_of(self, influence: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return what a row's relative influences are multiplied with before they are added to its score, [n]."""
        x = self.relative(influence)
        if self.score == "mean":
            return np.full(len(x), 1 / x.shape[1])
        squares = np.square(x).sum(1)
        return np.where(squares > 0, 1 / np.sqrt(np.where(squares > 0, x.shape[1] * squares, 1)), 0)

    def votes_of(self, influence: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return which voters vote for the rows of influence [n, S]: bool [n, voters]."""
        x = influence.astype(np.float64)
        if self.tasks is not None:
            x = x @ np.eye(int(self.tasks.max()) + 1)[self.tasks]
        return np.asarray(x > (0 if self.cuts is None else self.cuts))
