"""Sums over a sample of the pool, whose bits are independent of the number of ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from gdig.distributed.ranks import Ranks
from gdig.distributed.tensors import Exchange
from gdig.influence.sums_resume import SumsResume
from gdig.model.batch_runner import BatchRunner
from gdig.model.batches import Batch
from gdig.model.host_copy import HostCopy
from gdig.progress import Bar, Progress

_GROUPS = 8
"""Groups of the sample's batches; at most as many ranks share the fit. A group costs one more addition of all sums, in
the memory of the computer. The number is constant, because the bits of the sums depend on it."""


@dataclass
class SampleSums:
    """A pass over the batches of a sample. The ranks take groups of batches in turns.

    One rank adds up the batches of a group, and the sums of the groups are added in order. So the bits of the totals
    are independent of the number of ranks.

    Attributes:
        batches: the batches of the sample, the same on all ranks.
        n_examples: the number of examples in the sample.
        batch_runner: runs batches and lowers their size when memory runs out.
        progress: shows the bars.
        ranks: the ranks that share the pass.
        exchange: moves tensors between the ranks.
        resume: has the sums of an earlier start, and keeps those of this start.
    """

    batches: Sequence[Batch]
    n_examples: int
    batch_runner: BatchRunner
    progress: Progress
    ranks: Ranks
    exchange: Exchange
    resume: SumsResume

    def sum(
        self,
        name: str,
        run: Callable[[Batch, set], HostCopy],
        sums: Sequence[torch.Tensor],
        owners: Sequence[int],
    ) -> tuple[np.ndarray, list[torch.Tensor | None]]:
        """Pass all batches, and add up the sums of all ranks.

        Args:
            name: the title of the bar.
            run: adds a batch to `sums` and returns its losses.
            sums: the tensors that `run` adds to.
            owners: for each tensor of `sums`, the rank that gets its total.

        Returns:
            finite: bool [n_examples], whether the loss of an example is finite, the same on every rank.
            totals: for each tensor of `sums` its total on the CPU, or None if another rank owns the total.
        """
        ranks, n_groups, resume = self.ranks, min(_GROUPS, len(self.batches)), self.resume
        finite = np.zeros(self.n_examples, dtype=bool)
        totals: list[torch.Tensor | None] = [None] * len(sums)
        n_added = resume.begin(name, sums, totals, finite)
        with self.progress.stage(name, self.n_examples) as own_bar:
            bar = ranks.shared_bar(own_bar)
            for group in range(ranks.rank, n_added, ranks.world):
                _skip(bar, self.batches[group::n_groups])
            for first_group in range(n_added, n_groups, ranks.world):
                group = first_group + ranks.rank
                ranks.doing(f"{name}, group {group} of {n_groups}")
                for total in sums:
                    total.zero_()
                if group < n_groups:
                    self._add_group(group, self.batches[group::n_groups], run, sums, finite, bar)
                keep = ranks.gather(resume.wants_totals(), bar)[0]
                self.exchange.add_in_order(sums, totals, owners, min(ranks.world, n_groups - first_group))
                resume.end_round(min(n_groups, first_group + ranks.world), totals, finite, keep=keep)
        rows_by_rank = ranks.gather(np.flatnonzero(finite).tolist())
        finite[np.concatenate([np.array(rows, dtype=np.int64) for rows in rows_by_rank])] = True
        return finite, totals

    def _add_group(
        self,
        group: int,
        batches: Sequence[Batch],
        run: Callable[[Batch, set], HostCopy],
        sums: Sequence[torch.Tensor],
        finite: np.ndarray,
        bar: Bar,
    ) -> None:
        """Add up the batches of a group, behind those that an earlier start has added."""
        n_done = self.resume.load_group(group, sums, finite)
        _skip(bar, batches[:n_done])
        arriving: list[tuple[np.ndarray, HostCopy]] = []

        def arrive() -> None:
            for rows, losses in arriving:
                finite[rows] = np.isfinite(losses.numpy()[0])
            arriving.clear()

        n_rows = np.cumsum([len(batch.rows) for batch in batches])
        rows_done = int(n_rows[n_done - 1]) if n_done else 0
        for batch, losses in self.batch_runner.run(batches[n_done:], run):
            arriving.append((batch.rows, losses))
            bar.advance(len(batch.rows), tokens=int(batch.lengths.sum()))
            rows_done += len(batch.rows)
            # A batch that did not fit the memory comes in pieces. The sums are kept after the last piece.
            if rows_done in n_rows and self.resume.due():
                arrive()
                self.resume.keep_group(group, int(np.searchsorted(n_rows, rows_done)) + 1, sums, finite)
        arrive()


def _skip(bar: Bar, batches: Sequence[Batch]) -> None:
    rows, tokens = sum(len(batch.rows) for batch in batches), sum(int(batch.lengths.sum()) for batch in batches)
    bar.skip(rows, tokens=tokens)
