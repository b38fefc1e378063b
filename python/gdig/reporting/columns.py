"""The numbers of the rows that a report counts, and of those that it names."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gdig.resampling import sample_rows
from gdig.selection.finished_run import FinishedRun
from gdig.store.gather import gather

MOST_COUNTED = 1_000_000
"""Rows that the distributions count; of a larger pool, so many are drawn by a hash."""
_INFLUENCE_NUMBERS = 1 << 22
"""Numbers of influence from which the shares and correlations of the seeds are estimated: 16 MiB."""


@dataclass(frozen=True)
class Columns:
    """Numbers of the counted rows of a run.

    run: the run. rows: int64 [n], valid rows, ascending.
    """

    run: FinishedRun
    rows: NDArray[np.int64]

    @cached_property
    def values(self) -> dict[str, NDArray]:
        """Votes, score, loss, tokens and with clusters label and distance, [n] each."""
        return self.run.sweep.row_columns(self.rows)

    @cached_property
    def is_chosen(self) -> NDArray[np.bool_]:
        """Which of the rows are chosen."""
        chosen = self.run.chosen.rows if self.run.chosen is not None else np.zeros(0, np.int64)
        return np.isin(self.rows, chosen)

    @cached_property
    def source(self) -> NDArray[np.int64]:
        """The source of each row, by its number."""
        return self.run.sweep.sources.of(self.rows)

    def influence_sample(self) -> NDArray[np.float32]:
        """Influence of counted rows, evenly spaced, on every seed: float32 [m, S]."""
        return self._influence(self.rows)

    def chosen_influence(self) -> NDArray[np.float32]:
        """Influence of chosen rows, evenly spaced, on every seed: float32 [m, S]."""
        chosen = self.run.chosen
        return self._influence(np.sort(chosen.rows) if chosen is not None else np.zeros(0, np.int64))

    def _influence(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        most = max(256, _INFLUENCE_NUMBERS // max(1, self.run.sweep.survey.n_seeds))
        step = max(1, -(-len(rows) // most))
        return gather(self.run.sweep.store, "influence", rows[::step])


def counted_columns(run: FinishedRun) -> Columns:
    """Return the columns of all valid rows, or of a sample of a large pool."""
    store, n = run.sweep.store, run.sweep.survey.rows
    if n <= MOST_COUNTED:
        by_shard = [
            np.flatnonzero(store.tensor(shard, "valid")) + store.shard_range(shard)[0] for shard in store.shards
        ]
        return Columns(run, np.concatenate(by_shard).astype(np.int64))
    rows = np.sort(sample_rows(n, MOST_COUNTED, run.config.random_seed))
    return Columns(run, rows[gather(store, "valid", rows) != 0])


def sketches_of(run: FinishedRun, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the sketches of some rows, float32 [n, dim]."""
    store = run.sweep.store
    if store.dtype in ("float16", "float32"):
        return gather(store, "sketch", rows).astype(np.float32)
    out = np.empty((len(rows), store.dim), np.float32)
    shards = rows // store.rows_per_shard
    for shard in np.unique(shards).tolist():
        here = shards == shard
        out[here] = store.rows_float32(shard)[rows[here] - shard * store.rows_per_shard]
    return out
