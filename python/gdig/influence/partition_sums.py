"""The two passes of a fit over its sample, for the layers of one partition: sums of A and S, and sums of squares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from gdig.config.config import Config
from gdig.distributed.ranks import Ranks
from gdig.distributed.tensors import Exchange
from gdig.influence.curvature_sums import Pair, Totals, moments_sink, squares_sink, totals_needed, zero_triangles
from gdig.influence.factors import Factors
from gdig.influence.rotations import rotations_in_bfloat16
from gdig.influence.sample_sums import SampleSums
from gdig.influence.sums_resume import SumsResume
from gdig.model.batch_runner import BatchRunner
from gdig.model.batches import Batch
from gdig.model.capture import ExpertsSink, Sink
from gdig.model.causal_model import Model
from gdig.model.head_cache import HeadCache
from gdig.model.host_copy import HostCopy
from gdig.model.partition_pass import PartitionPass
from gdig.model.precision import float32_products
from gdig.progress import Progress


@dataclass(frozen=True)
class FitSample:
    """The sample of a fit and what passes it, the same for all partitions.

    Attributes:
        model: the frozen model.
        config: loss_reduction, matmul_precision, random_seed, use_empirical_fisher, and kfac_approx.
        batches: the batches of the sample, the same on all ranks.
        lengths: int [N], the tokens of each example.
        heads: keeps what the model's head gives, from the first pass to the next ones.
        batch_runner: runs batches and lowers their size when memory runs out.
        progress: shows the bars.
        ranks: the ranks that share the passes.
        exchange: moves tensors between the ranks.
    """

    model: Model
    config: Config
    batches: Sequence[Batch]
    lengths: np.ndarray
    heads: HeadCache
    batch_runner: BatchRunner
    progress: Progress
    ranks: Ranks
    exchange: Exchange


class PartitionSums:
    """Sums over the sample for the layers of one partition.

    Layers are named by their number in the partition here, from 0.

    Args:
        sample: the sample.
        partitions: all partitions of the fit, each the indices of layers of the model.
        partition: one of them.
        resume: has the sums of an earlier start, and keeps those of this start.

    Attributes:
        layers: the layers of the partition.
        owners: the rank of each, which gets its totals.
        own: the numbers of this rank's layers.
    """

    def __init__(
        self,
        sample: FitSample,
        partitions: Sequence[Sequence[int]],
        partition: Sequence[int],
        resume: SumsResume,
    ) -> None:
        self._sample, self._partitions, self._partition, self._resume = sample, partitions, partition, resume
        model, ranks = sample.model, sample.ranks
        self.layers = [model.layers[index] for index in partition]
        owners = ranks.owners(len(model.layers))
        self.owners = [owners[index] for index in partition]
        self.own = [number for number, owner in enumerate(self.owners) if owner == ranks.rank]

    def title(self, name: str) -> str:
        """Return the title of a bar."""
        title, partitions = f"fit: {name}", [tuple(partition) for partition in self._partitions]
        if len(partitions) > 1:
            title += f", partition {partitions.index(tuple(self._partition)) + 1} of {len(partitions)}"
        return title

    def moments(self) -> tuple[np.ndarray, Totals, dict[int, list[float]]]:
        """Pass the sample for the sums of A and S. The sums are gone after it.

        Returns:
            finite: bool [N], which examples have a finite loss.
            totals: of A and S, of this rank's layers.
            seen: the counts of the experts' layers (`moments_sink`).
        """
        layers = self.layers
        sums = zero_triangles(self._sample.model, layers)
        places = totals_needed(layers, self.owners)
        counts = {
            number: torch.zeros(2, dtype=torch.float64, device=layer.device)
            for number, layer in enumerate(layers)
            if layer.expert is not None
        }
        reduce = self._sample.config.kfac_approx == "reduce"

        def make_sinks(added: set) -> tuple[Sink, ExpertsSink]:
            return moments_sink(layers, sums, reduce, added, counts)

        bands = [(place, band) for place in places for band in sums[place[0]][place[1]]]
        owners = [self.owners[number] for (number, _), _ in bands] + [0] * len(counts)
        finite, totals = self._pass("factors", make_sinks, [*(band for _, band in bands), *counts.values()], owners)
        by_place: Totals = {place: [] for place in places}
        for (place, _), total in zip(bands, totals[: len(bands)], strict=True):
            by_place[place].append(total)
        own = [None if total is None else total.tolist() for total in totals[len(bands) :]]
        return finite, by_place, dict(zip(counts, self._sample.ranks.gather(own)[0], strict=True))

    def squares(self, name: str, factors: dict[int, Factors]) -> tuple[np.ndarray, dict[int, torch.Tensor]]:
        """Pass the sample for the squares of its gradients in the eigenvectors of `factors`, with the same labels.

        Args:
            name: what the squares are for; it is in the title of the bar.
            factors: of this rank's layers.

        Returns:
            finite: bool [N], which examples have a finite loss.
            totals: [O, J] on the CPU, of each of this rank's layers but those with a shared factor.
        """
        layers, ranks = self.layers, self._sample.ranks
        bfloat16 = rotations_in_bfloat16(self._sample.config, self._sample.model.device)
        shared = set().union(*ranks.gather([number for number, f in factors.items() if f.shared]))
        bases = self._eigenvectors(factors, shared)
        squares = [None if basis is None else basis[0].new_zeros(len(basis[1]), len(basis[0])) for basis in bases]

        def make_sinks(added: set) -> tuple[Sink, ExpertsSink]:
            return squares_sink(layers, bases, squares, added, bfloat16)

        numbers = [number for number in range(len(layers)) if number not in shared]
        sums = [total for total in squares if total is not None]
        finite, totals = self._pass(name, make_sinks, sums, [self.owners[number] for number in numbers])
        return finite, {number: x for number, x in zip(numbers, totals, strict=True) if x is not None}

    def _pass(
        self,
        name: str,
        make_sinks: Callable[[set], tuple[Sink, ExpertsSink]],
        sums: Sequence[torch.Tensor],
        owners: Sequence[int],
    ) -> tuple[np.ndarray, list[torch.Tensor | None]]:
        """Pass the sample over the layers (see `SampleSums.sum`)."""
        sample, config = self._sample, self._sample.config
        random_seed = None if config.use_empirical_fisher else config.random_seed
        gradients = PartitionPass(sample.model, self._partition, config.loss_reduction, random_seed, heads=sample.heads)

        def run(batch: Batch, added: set) -> HostCopy:
            with float32_products(config.matmul_precision):
                return HostCopy([gradients.run(batch, *make_sinks(added))])

        over_sample = SampleSums(
            sample.batches,
            len(sample.lengths),
            sample.batch_runner,
            sample.progress,
            sample.ranks,
            sample.exchange,
            self._resume,
        )
        return over_sample.sum(self.title(name), run, sums, owners)

    def _eigenvectors(self, factors: dict[int, Factors], left_out: set[int]) -> list[Pair | None]:
        """The eigenvectors of all layers but `left_out`. The owner of a layer sends them; its own tensors serve it."""
        dtype = torch.promote_types(self._sample.model.dtype, torch.float32)

        def share(number: int, name: str, width: int) -> torch.Tensor:
            if self.owners[number] == self._sample.ranks.rank:
                basis = getattr(factors[number], name)
            else:
                basis = torch.empty(width, width, dtype=dtype, device=self.layers[number].device)
            self._sample.exchange.broadcast(basis, self.owners[number])
            return basis

        inputs: dict[str, torch.Tensor] = {}
        bases: list[Pair | None] = []
        for number, layer in enumerate(self.layers):
            if number in left_out:
                bases.append(None)
                continue
            if layer.input_name not in inputs:
                inputs[layer.input_name] = share(number, "q_a", layer.width)
            bases.append((inputs[layer.input_name], share(number, "q_s", layer.out_features)))
        return bases
