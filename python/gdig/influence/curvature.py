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
from collections.abc import Sequence

import numpy as np
import torch

from gdig.config.config import Config
from gdig.data.tokens import Example
from gdig.distributed.ranks import Ranks
from gdig.distributed.tensors import Exchange
from gdig.errors import NotFiniteError
from gdig.influence.curvature_resume import CurvatureResume, PartitionResume
from gdig.influence.curvature_sums import Totals, mean_matrix
from gdig.influence.expert_moments import ExpertMoments
from gdig.influence.factors import Factors, eigenbasis
from gdig.influence.memory_plan import MemoryPlan, plan_fit
from gdig.influence.partition_sums import FitSample, PartitionSums
from gdig.model.batch_runner import BatchRunner
from gdig.model.batches import make_batches
from gdig.model.causal_model import Model
from gdig.model.head_cache import HeadCache
from gdig.model.layers import Layer
from gdig.progress import Bar, Progress
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
        self._corrects = config.inversion in ("ekfac", "cg")
        self._partitions, self._token_batch_size = plan.partitions, plan.token_batch_size
        self._sample = FitSample(
            model,
            config,
            make_batches(
                examples, plan.token_batch_size, keys=keys, window=model.window, rotary_switch=model.rotary_switch
            ),
            np.array([len(example.input_ids) for example in examples]),
            HeadCache(plan.head_cache if self._corrects or len(plan.partitions) > 1 else 0),
            BatchRunner(plan.token_batch_size, model.device, progress, model.save_memory),
            progress,
            ranks,
            Exchange(ranks, model.device),
        )
        self._resume = resume or CurvatureResume()
        self.report: CurvatureReport | None = None

    def run(self, partition: Sequence[int]) -> dict[int, Factors]:
        """Fit some layers: the indices of all layers of the model, or of one partition of them.

        Returns:
            The factors of those layers that this rank owns (`Ranks.owners`), by index.

        Raises:
            ModelError: if no example has a finite loss, or if a sum is not finite; the message names the layer.
        """
        sums, resume = self._begin(partition)
        began = time.monotonic()
        factors = self._factors(sums, resume)
        if self._corrects:
            self._keep(resume, began)
            self._correct(sums, factors)
        return {partition[number]: factors[number] for number in sums.own}

    def squares(self, partition: Sequence[int], factors: dict[int, Factors]) -> dict[int, torch.Tensor]:
        """Measure the squares of the examples' gradients in the eigenvectors of factors that are there.

        Args:
            partition: the indices of some layers.
            factors: of each of them, by index. They stay as they are.

        Returns:
            Their means [O, J], by index, of the layers that this rank owns. An expert with a shared factor has none.
        """
        sums, _ = self._begin(partition)
        by_number = {number: factors[index] for number, index in enumerate(partition)}
        finite, totals = sums.squares("error of the curvature", by_number)
        n = max(1, int(finite.sum()))
        return {partition[number]: _mean(total, n, sums.layers[number]) for number, total in totals.items()}

    def _begin(self, partition: Sequence[int]) -> tuple[PartitionSums, PartitionResume]:
        """Open the resume files of a partition, and what passes the sample for its layers."""
        sample = self._sample
        resume = self._resume.of_partition(
            sample.batches,
            self._token_batch_size,
            sample.model,
            sample.config,
            sample.ranks,
            [sample.model.layers[index].name for index in partition],
        )
        return PartitionSums(sample, self._partitions, partition, resume.sums), resume

    def _factors(self, sums: PartitionSums, resume: PartitionResume) -> dict[int, Factors]:
        """The first pass: the sums of A and S; then their eigenvectors."""
        sample, layers, own = self._sample, sums.layers, sums.own
        stored = {number: f for number in own if (f := resume.load(layers[number])) is not None}
        counts = max(((f.examples, f.tokens) for f in stored.values()), default=(0, 0))
        by_rank = sample.ranks.gather([len(stored) == len(own), *counts])
        if all(complete for complete, _, _ in by_rank):
            _, n_examples, n_tokens = max(by_rank)  # a rank without layers has no counts
            self.report = CurvatureReport(n_examples, n_tokens, len(sample.lengths) - n_examples)
            return stored
        finite, totals, seen = sums.moments()
        self.report = CurvatureReport(int(finite.sum()), int(sample.lengths[finite].sum()), int((~finite).sum()))
        if self.report.examples == 0:
            raise NotFiniteError(
                f"fit: expected rows with a finite loss, but none of the {len(finite)} rows of the sample has one; "
                "check the model's weights"
            )
        reduce = sample.config.kfac_approx == "reduce"
        n_summed = self.report.examples if reduce else self.report.tokens
        dtype = torch.promote_types(sample.model.dtype, torch.float32)
        experts = ExpertMoments(layers, sums.owners, seen, n_summed, reduce, dtype, sample.exchange, sample.ranks)
        experts.share(totals)
        if experts.summary is not None and sample.ranks.main:
            sample.progress.say(f"{sums.title('factors')}: {experts.summary}")
        with sample.progress.stage(sums.title("eigenvectors"), len(own), "layers") as bar:
            return self._factorise(sums, resume, totals, experts, stored, bar)

    def _factorise(
        self,
        sums: PartitionSums,
        resume: PartitionResume,
        totals: Totals,
        experts: ExpertMoments,
        stored: dict[int, Factors],
        bar: Bar,
    ) -> dict[int, Factors]:
        """Make the factors of this rank's layers from the totals of A and S, which are dropped one by one.

        Layers with one input share its eigenvectors. `stored` has the factors of an earlier start.
        """
        assert self.report is not None
        report, reduce = self.report, self._sample.config.kfac_approx == "reduce"
        factors: dict[int, Factors] = {}
        bases: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        for number in sums.own:
            layer, f = sums.layers[number], stored.get(number)
            total_a, total_s = totals.pop((number, 0), []), totals.pop((number, 1))
            name_a, name_s = experts.basis(number, 0), experts.basis(number, 1)
            if f is None:
                for name, total in ((name_a, total_a), (name_s, total_s)):
                    if name not in bases:
                        mean = mean_matrix(total, experts.divisor(number), layer.device)
                        bases[name] = eigenbasis(mean, layer.name)
                (q_a, l_a), (q_s, l_s) = bases[name_a], bases[name_s]
                seen, shared = experts.seen(number, report.tokens), experts.is_shared(number)
                f = Factors(q_a, q_s, l_a, l_s, None, report.tokens, report.examples, reduce, seen, shared)
                resume.keep(layer, f)
            bases.setdefault(name_a, (f.q_a, f.l_a))
            factors[number] = f
            bar.skip(1) if number in stored else bar.advance(1)
        return factors

    def _keep(self, resume: PartitionResume, began: float) -> None:
        """Keep the factors of all ranks, if the second pass is expected to end after a file is due.

        The second pass is expected to take as long as the partition took since `began`. The ranks end their
        eigenvectors at different times; they wait here, because an exchange of tensors has a limit.
        """
        ranks = self._sample.ranks
        if ranks.gather(resume.due(ahead_s=time.monotonic() - began))[0]:
            resume.save()
            ranks.gather(None)  # until all ranks have their factors, a start needs the sums
            resume.sums.forget()

    def _correct(self, sums: PartitionSums, factors: dict[int, Factors]) -> None:
        """The second pass: EK-FAC's eigenvalues, with the same labels. Experts with a shared factor have none."""
        _, totals = sums.squares("eigenvalues", factors)
        assert self.report is not None
        for number, total in totals.items():
            factors[number].corrected = _mean(total, self.report.examples, sums.layers[number])


def _mean(total: torch.Tensor, count: int, layer: Layer) -> torch.Tensor:
    """A total divided by a count, in the total's place, on the device of its layer."""
    return total.div_(count).to(layer.device)
