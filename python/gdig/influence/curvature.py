"""Fit the curvature: the Kronecker factors of each layer, their eigenvectors, and the corrected eigenvalues of EK-FAC.

a are the inputs of a layer and d its output gradients, at every token of the sample that is no pad. Tokens enter the
factors in one of two ways (Martens and Grosse 2015; Eschenhagen et al. 2023):

    expand:  A = (1/T) sum_t a_t a_t^T                 S = (1/T) sum_t d_t d_t^T
    reduce:  A = (1/N) sum_e (sum_t a_t)(sum_t a_t)^T  S likewise

EK-FAC (George et al. 2018; Grosse et al. 2023, section 2.2) has the same eigenvectors Q_A, Q_S. It replaces the
eigenvalues by L = (1/N) sum_e (Q_S^T G_e Q_A)^2, elementwise. L takes a second pass with the same labels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from gdig.config.config import Config
from gdig.data.tokens import Example
from gdig.distributed.ranks import Ranks
from gdig.distributed.tensors import Exchange
from gdig.errors import NotFiniteError
from gdig.influence.curvature_resume import CurvatureResume
from gdig.influence.curvature_sums import (
    Pair,
    Totals,
    mean_matrix,
    moments_sink,
    squares_sink,
    totals_needed,
    zero_triangles,
)
from gdig.influence.expert_moments import ExpertMoments
from gdig.influence.factors import Factors, eigenbasis
from gdig.influence.memory_plan import MemoryPlan, plan_fit
from gdig.influence.sample_sums import SampleSums
from gdig.model.batch_runner import BatchRunner
from gdig.model.batches import Batch, make_batches
from gdig.model.capture import ExpertsSink, Sink
from gdig.model.causal_model import Model
from gdig.model.head_cache import HeadCache
from gdig.model.host_copy import HostCopy
from gdig.model.layers import Layer
from gdig.model.partition_pass import PartitionPass
from gdig.model.precision import float32_products
from gdig.progress import Progress
from gdig.run.record import CurvatureReport


def fit_curvature(
    model: Model,
    examples: Sequence[Example],
    keys: np.ndarray,
    config: Config,
    progress: Progress,
    ranks: Ranks | None = None,
) -> tuple[list[Factors], CurvatureReport]:
    """Fit the factors of every layer of the model on `examples`, in the partitions that the memory asks for.

    It keeps all factors in memory and writes no file. A run writes each partition (`gdig.influence.fit`).

    Args: see `CurvatureFit`.

    Returns:
        The factors of the layers that this rank owns (`Ranks.owners`), in order. One rank alone owns all layers.
        What the sample held.

    Raises:
        ModelError: if no example has a finite loss, or if a sum is not finite; the message names the layer.
    """
    ranks = ranks or Ranks()
    plan = plan_fit(model, examples, config, ranks)
    fit = CurvatureFit(model, examples, keys, config, progress, ranks, plan)
    factors: dict[int, Factors] = {}
    for partition in plan.partitions:
        factors |= fit.run(partition)
    assert fit.report is not None
    return [factors[index] for index in sorted(factors)], fit.report


class CurvatureFit:
    """Fits the curvature of a model's layers on one sample, some layers at a time.

    Args:
        model: the frozen model.
        examples: the sample.
        keys: uint64 [len(examples)], the row of each example in the pool. It names the example's stream of drawn
            labels.
        config: inversion, kfac_approx, use_empirical_fisher, loss_reduction, matmul_precision, random_seed.
        progress: shows the bars.
        ranks: the ranks that share the fit. All of them make the same calls with the same arguments.
        plan: of the memory, the same on all ranks (`plan_fit`).
        resume: has what an earlier start has done, and keeps what this start does; None keeps nothing.

    Attributes:
        report: the number of examples and tokens in the factors, and of examples whose loss is not finite; None before
            the first `run`.
    """

    def __init__(
        self,
        model: Model,
        examples: Sequence[Example],
        keys: np.ndarray,
        config: Config,
        progress: Progress,
        ranks: Ranks,
        plan: MemoryPlan,
        resume: CurvatureResume | None = None,
    ) -> None:
        self._model, self._config, self._progress, self._ranks, self._plan = model, config, progress, ranks, plan
        self._corrects = config.inversion in ("ekfac", "cg")
        self._reduce = config.kfac_approx == "reduce"
        self._lengths = np.array([len(example.input_ids) for example in examples])
        self._heads = HeadCache(plan.head_cache if self._corrects or len(plan.partitions) > 1 else 0)
        self._batches = make_batches(
            examples, plan.token_batch_size, keys=keys, window=model.window, rotary_switch=model.rotary_switch
        )
        self._batch_runner: BatchRunner = BatchRunner(plan.token_batch_size, model.device, progress, model.save_memory)
        self._exchange = Exchange(ranks, model.device)
        self._all_resume = resume or CurvatureResume()
        self.report: CurvatureReport | None = None

    def run(self, partition: Sequence[int]) -> dict[int, Factors]:
        """Fit some layers: the indices of all layers of the model, or of one partition of them.

        Returns:
            The factors of those layers that this rank owns (`Ranks.owners`), by index.

        Raises:
            ModelError: if no example has a finite loss, or if a sum is not finite; the message names the layer.
        """
        layers, owners, own = self._begin(partition)
        began = time.monotonic()
        factors = self._factors(layers, owners, own, partition)
        if self._corrects:
            self._keep(began)
            self._correct(layers, owners, own, partition, factors)
        return {partition[number]: factors[number] for number in own}

    def squares(self, partition: Sequence[int], factors: dict[int, Factors]) -> dict[int, torch.Tensor]:
        """Measure the squares of the examples' gradients in the eigenvectors of factors that are there.

        Args:
            partition: the indices of some layers.
            factors: of each of them, by index. They stay as they are.

        Returns:
            Their means [O, J], by index, of the layers that this rank owns. An expert with a shared factor has none.
        """
        layers, owners, own = self._begin(partition)
        by_number = {number: factors[index] for number, index in enumerate(partition)}
        finite, totals = self._sum_squares("error of the curvature", layers, owners, partition, by_number)
        n = max(1, int(finite.sum()))
        return {
            partition[number]: _mean(totals[number], n, layers[number].device)
            for number in own
            if not by_number[number].shared
        }

    def _begin(self, partition: Sequence[int]) -> tuple[list[Layer], list[int], list[int]]:
        """Open the resume files of a partition; return its layers, their owners, and the numbers of this rank's own."""
        layers = [self._model.layers[index] for index in partition]
        owners = [self._ranks.owners(len(self._model.layers))[index] for index in partition]
        self._resume = self._all_resume.of_partition(
            self._batches,
            self._plan.token_batch_size,
            self._model,
            self._config,
            self._ranks,
            [layer.name for layer in layers],
        )
        return layers, owners, [number for number, owner in enumerate(owners) if owner == self._ranks.rank]

    def _factors(
        self, layers: Sequence[Layer], owners: Sequence[int], own: Sequence[int], partition: Sequence[int]
    ) -> dict[int, Factors]:
        """The first pass: the sums of A and S; then their eigenvectors."""
        stored = {number: f for number in own if (f := self._resume.load(layers[number])) is not None}
        counts = max(((f.examples, f.tokens) for f in stored.values()), default=(0, 0))
        by_rank = self._ranks.gather([len(stored) == len(own), *counts])
        if all(complete for complete, _, _ in by_rank):
            _, n_examples, n_tokens = max(by_rank)  # a rank without layers has no counts
            self.report = CurvatureReport(n_examples, n_tokens, len(self._lengths) - n_examples)
            return stored
        finite, totals, seen = self._sum_moments(layers, owners, partition)
        self.report = CurvatureReport(int(finite.sum()), int(self._lengths[finite].sum()), int((~finite).sum()))
        if self.report.examples == 0:
            raise NotFiniteError(
                f"fit: expected rows with a finite loss, but none of the {len(finite)} rows of the sample has one; "
                "check the model's weights"
            )
        sample = self.report.examples if self._reduce else self.report.tokens
        dtype = torch.promote_types(self._model.dtype, torch.float32)
        experts = ExpertMoments(layers, owners, seen, sample, self._reduce, dtype, self._exchange, self._ranks)
        experts.share(totals)
        if experts.summary is not None and self._ranks.main:
            self._progress.say(f"{self._title('factors', partition)}: {experts.summary}")
        return self._factorise(layers, own, totals, experts, stored, self._title("eigenvectors", partition))

    def _factorise(
        self,
        layers: Sequence[Layer],
        own: Sequence[int],
        totals: Totals,
        experts: ExpertMoments,
        stored: dict[int, Factors],
        title: str,
    ) -> dict[int, Factors]:
        """Make the factors of this rank's layers from the totals of A and S, which are dropped one by one.

        Layers with one input share its eigenvectors. `kept` has the factors of an earlier start.
        """
        assert self.report is not None
        report = self.report
        factors: dict[int, Factors] = {}
        bases: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        with self._progress.stage(title, len(own), "layers") as bar:
            for number in own:
                layer, f = layers[number], stored.get(number)
                total_a, total_s = totals.pop((number, 0), []), totals.pop((number, 1))
                name_a, name_s = experts.basis(number, 0), experts.basis(number, 1)
                if f is None:
                    for name, total in ((name_a, total_a), (name_s, total_s)):
                        if name not in bases:
                            mean = mean_matrix(total, experts.divisor(number), layer.device)
                            bases[name] = eigenbasis(mean, layer.name)
                    (q_a, l_a), (q_s, l_s) = bases[name_a], bases[name_s]
                    seen, shared = experts.seen(number, report.tokens), experts.is_shared(number)
                    f = Factors(q_a, q_s, l_a, l_s, None, report.tokens, report.examples, self._reduce, seen, shared)
                    self._resume.keep(layer, f)
                bases.setdefault(name_a, (f.q_a, f.l_a))
                factors[number] = f
                bar.advance(1)
        return factors

    def _keep(self, began: float) -> None:
        """Keep the factors of all ranks, if the second pass is expected to end after a file is due.

        The second pass is expected to take as long as the partition took since `began`. The ranks end their
        eigenvectors at different times; they wait here, because an exchange of tensors has a limit.
        """
        if self._ranks.gather(self._resume.due(ahead_s=time.monotonic() - began))[0]:
            self._resume.save()
            self._ranks.gather(None)  # until all ranks have their factors, a start needs the sums
            self._resume.sums.forget()

    def _sum_moments(
        self, layers: Sequence[Layer], owners: Sequence[int], partition: Sequence[int]
    ) -> tuple[np.ndarray, Totals, dict[int, list[float]]]:
        """Which examples have a finite loss, the totals of A and S, and the counts of experts' layers (`moments_sink`).

        The sums are gone after it.
        """
        sums = zero_triangles(self._model, layers)
        places = totals_needed(layers, owners)
        counts = {
            number: torch.zeros(2, dtype=torch.float64, device=layer.device)
            for number, layer in enumerate(layers)
            if layer.expert is not None
        }

        def make_sinks(added: set) -> tuple[Sink, ExpertsSink]:
            return moments_sink(layers, sums, self._reduce, added, counts)

        bands = [(place, band) for place in places for band in sums[place[0]][place[1]]]
        flat_owners = [owners[number] for (number, _), _ in bands] + [0] * len(counts)
        added_up = [*(band for _, band in bands), *counts.values()]
        finite, totals = self._pass("factors", partition, make_sinks, added_up, flat_owners)
        by_place: Totals = {place: [] for place in places}
        for (place, _), total in zip(bands, totals[: len(bands)], strict=True):
            by_place[place].append(total)
        own = [None if total is None else total.tolist() for total in totals[len(bands) :]]
        return finite, by_place, dict(zip(counts, self._ranks.gather(own)[0], strict=True))

    def _correct(
        self,
        layers: Sequence[Layer],
        owners: Sequence[int],
        own: Sequence[int],
        partition: Sequence[int],
        factors: dict[int, Factors],
    ) -> None:
        """The second pass: EK-FAC's eigenvalues, with the same labels. Experts with a shared factor have none."""
        _, totals = self._sum_squares("eigenvalues", layers, owners, partition, factors)
        assert self.report is not None
        for number in own:
            if not factors[number].shared:
                factors[number].corrected = _mean(totals[number], self.report.examples, layers[number].device)

    def _sum_squares(
        self,
        name: str,
        layers: Sequence[Layer],
        owners: Sequence[int],
        partition: Sequence[int],
        factors: dict[int, Factors],
    ) -> tuple[np.ndarray, list[torch.Tensor | None]]:
        """Which examples have a finite loss, and the totals of the squares in the eigenvectors of `factors`.

        A layer with a shared factor has no total.
        """
        shared = set().union(*self._ranks.gather([number for number, f in factors.items() if f.shared]))
        bases = self._shared_eigenvectors(layers, owners, factors, shared)
        squares = [None if basis is None else basis[0].new_zeros(len(basis[1]), len(basis[0])) for basis in bases]

        def make_sinks(added: set) -> tuple[Sink, ExpertsSink]:
            return squares_sink(layers, bases, squares, added)

        numbers = [number for number in range(len(layers)) if number not in shared]
        sums = [total for total in squares if total is not None]
        finite, totals = self._pass(name, partition, make_sinks, sums, [owners[number] for number in numbers])
        by_number = dict(zip(numbers, totals, strict=True))
        return finite, [by_number.get(number) for number in range(len(layers))]

    def _pass(
        self,
        name: str,
        partition: Sequence[int],
        make_sinks: Callable[[set], tuple[Sink, ExpertsSink]],
        sums: Sequence[torch.Tensor],
        owners: Sequence[int],
    ) -> tuple[np.ndarray, list[torch.Tensor | None]]:
        """Pass the sample over the layers of a partition (see `SampleSums.sum`)."""
        config = self._config
        random_seed = None if config.use_empirical_fisher else config.random_seed
        gradients = PartitionPass(self._model, partition, config.loss_reduction, random_seed, heads=self._heads)

        def run(batch: Batch, added: set) -> HostCopy:
            with float32_products(config.matmul_precision):
                return HostCopy([gradients.run(batch, *make_sinks(added))])

        title = self._title(name, partition)
        n_examples = len(self._lengths)
        sample = SampleSums(
            self._batches,
            n_examples,
            self._batch_runner,
            self._progress,
            self._ranks,
            self._exchange,
            self._resume.sums,
        )
        return sample.sum(title, run, sums, owners)

    def _title(self, name: str, partition: Sequence[int]) -> str:
        """The title of a bar."""
        title, partitions = f"fit: {name}", self._plan.partitions
        if len(partitions) > 1:
            title += f", partition {partitions.index(tuple(partition)) + 1} of {len(partitions)}"
        return title

    def _shared_eigenvectors(
        self, layers: Sequence[Layer], owners: Sequence[int], factors: dict[int, Factors], left_out: set[int]
    ) -> list[Pair | None]:
        """The eigenvectors of all layers but `left_out`. The owner of a layer sends them; its own tensors serve it."""
        dtype = torch.promote_types(self._model.dtype, torch.float32)

        def share(number: int, name: str, width: int) -> torch.Tensor:
            if owners[number] == self._ranks.rank:
                basis = getattr(factors[number], name)
            else:
                basis = torch.empty(width, width, dtype=dtype, device=layers[number].device)
            self._exchange.broadcast(basis, owners[number])
            return basis

        inputs: dict[str, torch.Tensor] = {}
        bases: list[Pair | None] = []
        for number, layer in enumerate(layers):
            if number in left_out:
                bases.append(None)
                continue
            if layer.input_name not in inputs:
                inputs[layer.input_name] = share(number, "q_a", layer.width)
            bases.append((inputs[layer.input_name], share(number, "q_s", layer.out_features)))
        return bases


def _mean(total: torch.Tensor | None, count: int, device: torch.device) -> torch.Tensor:
    """A total divided by a count, in the total's place."""
    assert total is not None
    return total.div_(count).to(device)
