"""Which rows of a finished sweep a selection may choose, and which it leaves out, and why."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gdig.config.config import Config
from gdig.nouns import counted
from gdig.selection.method import FinishedSweep
from gdig.selection.quotas import source_weights
from gdig.selection.repeats import repeats
from gdig.selection.similar import SimilarityFeatures


@dataclass(frozen=True)
class Eligible:
    """A sweep of the rows that a selection may choose.

    sweep: every other row is not valid there. repeats, excluded: rows left out, because they repeat an earlier row, or
    share too much with the evaluation set. features: what rows are compared by; None without `max_similarity`.
    """

    sweep: FinishedSweep
    repeats: int = 0
    excluded: int = 0
    features: SimilarityFeatures | None = None

    @property
    def bars(self) -> bool:
        """Whether a valid row is left out, or may be passed over."""
        return bool(self.repeats or self.excluded or self.features is not None)

    def without_clusters(self) -> Eligible:
        """Return the rows as a method sees them that draws from no clusters."""
        return replace(self, sweep=self.sweep.without_clusters())

    def notes(self) -> list[str]:
        """Return what the user should know of the rows left out."""
        notes = []
        if self.repeats:
            repeats = counted(self.repeats, "row repeats an earlier row and was", "rows repeat an earlier row and were")
            notes.append(f"{repeats} left out; --repeats keep allows them")
        if self.excluded:
            of_set = "words or meaning with the evaluation set and"
            excluded = counted(self.excluded, f"row shares {of_set} was", f"rows share {of_set} were")
            notes.append(f"{excluded} left out")
        return notes


def narrow(
    sweep: FinishedSweep,
    config: Config,
    excluded: NDArray[np.int64],
    features: SimilarityFeatures | None = None,
    *,
    may_repeat: bool = True,
) -> Eligible:
    """Leave out the rows that the options repeats, exclude and source_quotas bar. Memory holds a few bytes a row.

    Args:
        sweep: the finished sweep, with its sources.
        config: repeats, source_quotas.
        excluded: int64 [n], valid rows that share too much with the evaluation set.
        features: of the rows, for `max_similarity`.
        may_repeat: whether a row of the pool repeats another; False saves the search.
    """
    unused, drops = _unused_sources(sweep, config), config.repeats == "drop" and may_repeat
    if not (drops or unused or len(excluded)):
        return Eligible(sweep, features=features)
    eligible = np.ones(sweep.survey.rows, np.bool_)
    eligible[excluded] = False
    for source in unused:
        eligible &= ~sweep.sources.has(source, len(eligible))
    n_repeats = 0
    if drops:
        is_repeat = repeats(sweep.store if eligible.all() else sweep.store.masked(eligible))
        n_repeats = int(is_repeat.sum())
        eligible &= ~is_repeat
    if not eligible.all():
        sweep = sweep.among(eligible)
    return Eligible(sweep, n_repeats, len(excluded), features)


def _unused_sources(sweep: FinishedSweep, config: Config) -> list[int]:
    """The sources to which a file of quotas gives no weight."""
    if config.source_quotas in (None, "equal", "proportional"):
        return []
    weights = source_weights(str(config.source_quotas), sweep.sources.names, [1] * len(sweep.sources))
    return [source for source, weight in enumerate(weights) if weight == 0]
