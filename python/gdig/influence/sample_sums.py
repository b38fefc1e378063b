"""Sums over a sample of the pool, whose bits are independent of the number of ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from gdig.distributed.ranks import Ranks
from gdig.distributed.tensors import Exchange
from gdig.model.batch_runner import BatchRunner
from gdig.model.batches import Batch
from gdig.model.host_copy import HostCopy
from gdig.progress import Progress

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
    """

    batches: Sequence[Batch]
    n_examples: int
    batch_runner: BatchRunner
    progress: Progress
    ranks: Ranks
    exchange: Exchange

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
        ranks, n_groups = self.ranks, min(_GROUPS, len(self.batches))
        finite = np.zeros(self.n_examples, dtype=bool)
        totals: list[torch.Tensor | None] = [None] * len(sums)
        with self.progress.stage(name, self.n_examples) as own_bar:
            bar = ranks.shared_bar(own_bar)
            for first_group in range(0, n_groups, ranks.world):
                group = first_group + ranks.rank
                ranks.doing(f"{name}, group {group} of {n_groups}")
                batches = self.batches[group::n_groups] if group < n_groups else []
                for total in sums:
                    total.zero_()
                arriving = []
                for batch, losses in self.batch_runner.run(batches, run):
                    arriving.append((batch.rows, losses))
                    bar.advance(len(batch.rows))
                for rows, losses in arriving:
                    finite[rows] = np.isfinite(losses.numpy()[0])
                ranks.gather(None, bar)
                self.exchange.add_in_order(sums, totals, owners, min(ranks.world, n_groups - first_group))
        rows_by_rank = ranks.gather(np.flatnonzero(finite).tolist())
        finite[np.concatenate([np.array(rows, dtype=np.int64) for rows in rows_by_rank])] = True
        return finite, totals
