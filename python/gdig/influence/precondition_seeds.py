"""Multiply the seeds' gradients with the inverse curvature, partition by partition, and report on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch

from gdig.config.config import Config
from gdig.data.tokens import Example
from gdig.distributed.ranks import Ranks
from gdig.distributed.tensors import Exchange
from gdig.influence.conjugate_gradients import shifts
from gdig.influence.factors import Factors
from gdig.influence.gauss_newton import GaussNewton
from gdig.influence.inverse import Inverse
from gdig.influence.low_rank_error import compare
from gdig.influence.seed_factors import SeedFactors, SeedFiles
from gdig.influence.seed_preconditioner import PreconditionedSeed, SeedPreconditioner, are_facts
from gdig.influence.seeds_resume import SeedsResume
from gdig.model.causal_model import Model
from gdig.progress import Progress
from gdig.run.record import SeedReport


def precondition_seeds(
    model: Model,
    factors: Iterable[Factors | None],
    seeds: Sequence[Example],
    probe: Sequence[Example],
    config: Config,
    progress: Progress,
    where: Callable[[int], str] = "seed {}".format,
    ranks: Ranks | None = None,
    sample: Sequence[Example] = (),
    resume: SeedsResume | None = None,
    partitions: Sequence[Sequence[int]] | None = None,
    files: SeedFiles | None = None,
) -> tuple[list[SeedFactors], SeedReport]:
    """Multiply every seed's gradient with the inverse Hessian, and factor the product.

    Args:
        model: the frozen model.
        factors: the curvature of each layer, or None for the identity. Of an iterator, only one layer's is in memory
            at a time, and what the inverses of a partition need.
        seeds: the seeds, in order.
        probe: rows of the pool for the comparison of factored and exact scores.
        config: inversion, damping, seed_energy, seed_rank, loss_reduction, random_seed. Inversion "cg" also reads
            cg_iterations, cg_tolerance, use_empirical_fisher, token_batch_size and matmul_precision.
        progress: shows the bars.
        where: returns the place of a seed, by its number, for errors.
        ranks: the ranks that share the seeds. All of them call this function with the same arguments.
        sample: rows of the pool whose Gauss-Newton matrix inversion "cg" inverts.
        resume: has the seeds that an earlier start has done, and keeps those of this start.
        partitions: consecutive indices of layers. The seeds pass once for each partition, whose inverses and factors
            alone are then in memory. The partitions change no bit. None, and for inversion "cg": one of all layers.
        files: where the factors of each layer are written as soon as its partition is done.

    Returns:
        The factors of the layers that this rank owns (`Ranks.owners`), in order; with `files` none. One rank alone owns
        all layers. The report on the seeds.

    Raises:
        ModelError: if the loss or gradient of a seed is not finite; the message names the seed.
    """
    ranks = ranks or Ranks()
    if partitions is None or config.inversion == "cg":
        partitions = [range(len(model.layers))]
    name, total, unit = "fit: seeds", len(seeds) * len(partitions), "seeds"
    if config.inversion == "cg":
        name, total, unit = "fit: conjugate gradients", len(seeds) * config.cg_iterations * len(sample), "products"
    joined: list[SeedFactors] = []
    summary = _Summary(len(seeds), len(probe))
    remaining = iter(factors)
    with progress.stage(name, total, unit) as own_bar:
        bar = ranks.shared_bar(own_bar)
        for partition in partitions:
            own_resume = None if resume is None else resume.of_partition([model.layers[i].name for i in partition])
            sound = partial(_are_facts, seeds=len(seeds), layers=len(partition))
            finished = own_resume.facts(sound) if own_resume and files and files.complete(partition) else None
            facts = ranks.gather(finished if ranks.main else None, bar)[0]
            curvature = islice(remaining, len(partition))
            if facts is not None:
                for _ in curvature:
                    pass
                bar.skip(total // len(partitions) if ranks.main else 0)
                summary.add(facts)
                continue
            inverses, added = [], []
            for f, index in zip(curvature, partition, strict=True):
                inverses.append(Inverse(f, config, model.layers[index].name))
                added += shifts([f], config) if config.inversion == "cg" else []
            preconditioner = SeedPreconditioner(model, partition, inverses, seeds, probe, config, where, ranks)
            if config.inversion == "cg":
                product = _make_products(model, sample, added, config, progress, ranks, resume)
                preconditioner.search(product, bar, own_resume)
            else:
                preconditioner.invert(bar, own_resume)
            own_seeds = list(preconditioner.done.values())
            del inverses, preconditioner  # the seeds' factors take their place
            facts_by_rank = ranks.gather([_facts(seed) for seed in own_seeds], bar)
            for index, layer_factors in _join_layers(own_seeds, facts_by_rank, model, partition, ranks):
                if files is None:
                    joined.append(layer_factors)
                else:
                    files.write(index, layer_factors)
            facts = [facts for rank_facts in facts_by_rank for facts in rank_facts]
            summary.add(facts)
            if own_resume is not None and files is not None:
                ranks.gather(None)  # until all ranks have written, a start needs the seeds
                if ranks.main:
                    own_resume.end_partition(facts)
    return joined, summary.report()


def _make_products(
    model: Model,
    sample: Sequence[Example],
    shifts: Sequence[float],
    config: Config,
    progress: Progress,
    ranks: Ranks,
    resume: SeedsResume | None,
) -> GaussNewton:
    """Return products with G + D in the batches of the earlier starts, because the bits depend on them."""
    kept = resume.token_batch_size() if resume is not None and ranks.main else None
    kept = ranks.gather(kept)[0]
    if kept is not None and config.token_batch_size == "auto":
        config = config.with_options(token_batch_size=kept)
    product = GaussNewton(model, sample, shifts, config, progress, ranks)
    if resume is not None and ranks.main and kept != product.token_batch_size:
        resume.keep_token_batch_size(product.token_batch_size)
    return product


class _Summary:
    """Adds up the report on the seeds, in the order of the layers."""

    def __init__(self, n_seeds: int, probe_rows: int) -> None:
        self._probe_rows = probe_rows
        self._losses = [0.0] * n_seeds
        self._searches: list[list] = []
        self._scores: list[np.ndarray | None] = [None] * n_seeds
        self._columns, self._least_energy = 0, 1.0

    def add(self, all_facts: Sequence[dict]) -> None:
        """Add the facts of each seed in a partition."""
        for number, facts in enumerate(all_facts):
            self._losses[number] = facts["loss"]
            self._columns += sum(facts["columns"])
            self._least_energy = min(self._least_energy, *facts["energy"])
            for scores in facts["scores"]:  # of each layer, [2, rows]; no rows for a seed that is not compared
                if scores[0]:
                    before, added = self._scores[number], np.array(scores)
                    self._scores[number] = added if before is None else before + added
        self._searches += [facts["search"] for facts in all_facts if facts["search"]]

    def report(self) -> SeedReport:
        """Return the report."""
        compared = [scores for scores in self._scores if scores is not None]
        error, correlation = compare(np.array(compared or np.zeros((0, 2, 0))))
        return SeedReport(
            losses=tuple(self._losses),
            columns=self._columns,
            least_energy=self._least_energy,
            probe_rows=self._probe_rows,
            relative_error=error,
            correlation=correlation,
            iterations=tuple(iterations for iterations, _, _ in self._searches),
            residuals=tuple(residual for _, residual, _ in self._searches),
            unconverged=sum(not converged for _, _, converged in self._searches),
        )


def _facts(seed: PreconditionedSeed) -> dict:
    """What the other ranks, and a later start, know of a seed. A JSON number is a float64 to the last bit."""
    return {
        "loss": seed.loss,
        "columns": [u.shape[1] for u, _ in seed.factors],
        "energy": seed.energy,
        "scores": seed.scores.tolist(),
        "search": seed.search,
    }


def _are_facts(value: Any, seeds: int, layers: int) -> bool:
    """Whether a JSON value has the facts of so many seeds in so many layers."""

    def has_numbers(facts: dict[str, Any]) -> bool:
        columns, scores = facts.get("columns"), facts.get("scores")
        if not isinstance(columns, list) or len(columns) != layers or not all(type(n) is int for n in columns):
            return False
        try:
            shape = np.array(scores, dtype=np.float64).shape
        except (TypeError, ValueError):
            return False
        return len(shape) == 3 and shape[:2] == (layers, 2)

    return (
        isinstance(value, list)
        and len(value) == seeds
        and all(isinstance(facts, dict) and are_facts(facts, layers) and has_numbers(facts) for facts in value)
    )


def _join_layers(
    own_seeds: Sequence[PreconditionedSeed],
    facts_by_rank: list[list[dict]],
    model: Model,
    partition: Sequence[int],
    ranks: Ranks,
) -> Iterator[tuple[int, SeedFactors]]:
    """Move a layer's factors of all seeds to the rank that owns the layer, and put them side by side, in order.

    Args:
        own_seeds: the seeds of this rank. Their factors are dropped layer by layer.
        facts_by_rank: for each rank the facts of its seeds: columns and energy.
        model: the model.
        partition: the indices of the layers.
        ranks: the ranks that share the seeds.

    Yields:
        The index and the factors of each layer of the partition that this rank owns, in order.
    """
    exchange = Exchange(ranks, model.device)
    dtype = torch.promote_types(model.dtype, torch.float32)
    all_facts = [facts for rank_facts in facts_by_rank for facts in rank_facts]
    owners = ranks.owners(len(model.layers))
    empty = torch.empty(0)
    for number, index in enumerate(partition):
        layer, owner = model.layers[index], owners[index]
        widths = [facts["columns"][number] for facts in all_facts]
        own_sides = [
            torch.cat([seed.factors[number][side] for seed in own_seeds], dim=1) if own_seeds else None
            for side in (0, 1)
        ]
        for seed in own_seeds:
            seed.factors[number] = (empty, empty)
        sides: list[torch.Tensor] = []
        for own_side, height in zip(own_sides, (layer.out_features, layer.width), strict=True):
            pieces = []
            for source, rank_facts in enumerate(facts_by_rank):
                columns = sum(facts["columns"][number] for facts in rank_facts)
                if columns == 0:
                    continue
                shape = (height, columns)
                piece = own_side if source == ranks.rank else torch.empty(shape, dtype=dtype, device=layer.device)
                assert piece is not None
                pieces.append(exchange.move(piece, source, owner) if ranks.rank in (source, owner) else None)
            if owner == ranks.rank:
                own = [piece for piece in pieces if piece is not None]
                own = own or [torch.empty(height, 0, dtype=dtype, device=layer.device)]  # an expert without seeds
                sides.append(own[0] if len(own) == 1 else torch.cat(own, dim=1))
        if owner == ranks.rank:
            energy = np.array([facts["energy"][number] for facts in all_facts])
            offsets = torch.tensor([0, *widths]).cumsum(0)
            yield index, SeedFactors(sides[0], sides[1], offsets, energy, layer.share)
