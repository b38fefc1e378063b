"""The preconditioned gradients H^-1 G_s of all seeds, in low-rank form, and the error of this form."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

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
from gdig.influence.precondition import SeedPreconditioner
from gdig.influence.seeds_resume import SeedsResume
from gdig.model.causal_model import Model
from gdig.progress import Progress
from gdig.run.record import SeedReport
from gdig.store.tensor_file import CheckedFile


@dataclass
class SeedFactors:
    """The preconditioned gradients of all S seeds in one layer, side by side: H^-1 G_s ~ U_s V_s^T.

    Attributes:
        u: [O, C], the columns of all U_s.
        v: [J, C], the columns of all V_s.
        column_offsets: int64 [S + 1] on the CPU. Seed s has the columns column_offsets[s] .. column_offsets[s + 1] - 1.
        energy: float64 [S], the share of |H^-1 G_s|^2 that U_s V_s^T keeps.
    """

    u: torch.Tensor
    v: torch.Tensor
    column_offsets: torch.Tensor
    energy: np.ndarray

    def save(self, file: CheckedFile, layer: str) -> None:
        """Write one file, complete or not at all. `layer` is the name of the layer."""
        file.write(
            {
                "u": self.u.cpu().numpy(),
                "v": self.v.cpu().numpy(),
                "column_offsets": self.column_offsets.numpy(),
                "energy": self.energy,
            },
            {"layer": layer},
        )

    @classmethod
    def load(cls, file: CheckedFile, device: torch.device) -> SeedFactors:
        """Read a file of `save`.

        Raises:
            StoreError: when it is missing or damaged, of something else, or holds no factors.
        """
        arrays, _ = file.read()
        arrays.shaped(u="O C", v="J C", column_offsets="offsets", energy="S")
        u, v, offsets = (torch.tensor(arrays[name]) for name in ("u", "v", "column_offsets"))
        return cls(u.to(device), v.to(device), offsets, np.array(arrays["energy"]))


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
) -> tuple[list[SeedFactors], SeedReport]:
    """Multiply every seed's gradient with the inverse Hessian, and factor the product.

    Args:
        model: the frozen model.
        factors: the curvature of each layer, or None for the identity. Of an iterator, only one layer's is in memory
            at a time, and what the inverses need.
        seeds: the seeds, in order.
        probe: rows of the pool for the comparison of factored and exact scores.
        config: inversion, damping, seed_energy, seed_rank, loss_reduction, random_seed. Inversion "cg" also reads
            cg_iterations, cg_tolerance, use_empirical_fisher, token_batch_size and matmul_precision.
        progress: shows the bars.
        where: returns the place of a seed, by its number, for errors.
        ranks: the ranks that share the seeds. All of them call this function with the same arguments.
        sample: rows of the pool whose Gauss-Newton matrix inversion "cg" inverts.
        resume: has the seeds that an earlier start has done, and keeps those of this start.

    Returns:
        The factors of the layers that this rank owns (`Ranks.owners`), in order. One rank alone owns all layers.
        The report on the seeds.

    Raises:
        ModelError: if the loss or gradient of a seed is not finite; the message names the seed.
    """
    ranks = ranks or Ranks()
    inverses, added = [], []
    for f, layer in zip(factors, model.layers, strict=True):
        inverses.append(Inverse(f, config, layer.name))
        added += shifts([f], config) if config.inversion == "cg" else []
    preconditioner = SeedPreconditioner(model, inverses, seeds, probe, config, where, ranks)
    if config.inversion == "cg":
        stage = progress.stage("fit: conjugate gradients", len(seeds) * config.cg_iterations * len(sample), "products")
    else:
        stage = progress.stage("fit: seeds", len(seeds), "seeds")
    with stage as own_bar:
        bar = ranks.shared_bar(own_bar)
        if config.inversion == "cg":
            product = GaussNewton(model, sample, added, config, progress, ranks)
            preconditioner.search(product, bar, resume)
        else:
            preconditioner.invert(bar, resume)
        own_seeds = list(preconditioner.done.values())
        # A JSON number is a float64 to the last bit.
        facts_by_rank = ranks.gather(
            [
                {
                    "loss": seed.loss,
                    "columns": [u.shape[1] for u, _ in seed.factors],
                    "energy": seed.energy,
                    "scores": seed.scores.tolist(),
                    "search": seed.search,
                }
                for seed in own_seeds
            ],
            bar,
        )
    joined = _join_layers([seed.factors for seed in own_seeds], facts_by_rank, model, ranks)
    return joined, _report([facts for rank_facts in facts_by_rank for facts in rank_facts], len(probe))


def _report(all_facts: list[dict], probe_rows: int) -> SeedReport:
    """Make the report from the facts of each seed."""
    compared = [facts["scores"] for facts in all_facts if facts["scores"][0]]
    error, correlation = compare(np.array(compared or np.zeros((0, 2, 0))))
    searches = [facts["search"] for facts in all_facts if facts["search"]]
    return SeedReport(
        losses=tuple(facts["loss"] for facts in all_facts),
        columns=sum(sum(facts["columns"]) for facts in all_facts),
        least_energy=min(min(facts["energy"]) for facts in all_facts),
        probe_rows=probe_rows,
        relative_error=error,
        correlation=correlation,
        iterations=tuple(iterations for iterations, _, _ in searches),
        residuals=tuple(residual for _, residual, _ in searches),
        unconverged=sum(not converged for _, _, converged in searches),
    )


def _join_layers(
    own_factors: list[list], facts_by_rank: list[list[dict]], model: Model, ranks: Ranks
) -> list[SeedFactors]:
    """Move a layer's factors of all seeds to the rank that owns the layer, and put them side by side, in order.

    Args:
        own_factors: for each seed of this rank, U and V of each layer. The entries become None.
        facts_by_rank: for each rank the facts of its seeds: columns and energy.
        model: the model.
        ranks: the ranks that share the seeds.

    Returns:
        The factors of the layers that this rank owns, in order.
    """
    exchange, joined = Exchange(ranks, model.device), []
    dtype = torch.promote_types(model.dtype, torch.float32)
    all_facts = [facts for rank_facts in facts_by_rank for facts in rank_facts]
    for index, owner in enumerate(ranks.owners(len(model.layers))):
        layer = model.layers[index]
        own_sides = [
            torch.cat([factors[index][side] for factors in own_factors], dim=1) if own_factors else None
            for side in (0, 1)
        ]
        for factors in own_factors:
            factors[index] = None
        sides: list[torch.Tensor] = []
        for own_side, height in zip(own_sides, (layer.out_features, layer.width), strict=True):
            pieces = []
            for source, rank_facts in enumerate(facts_by_rank):
                columns = sum(facts["columns"][index] for facts in rank_facts)
                if columns == 0:
                    continue
                shape = (height, columns)
                piece = own_side if source == ranks.rank else torch.empty(shape, dtype=dtype, device=layer.device)
                assert piece is not None
                pieces.append(exchange.move(piece, source, owner) if ranks.rank in (source, owner) else None)
            if owner == ranks.rank:
                sides.append(torch.cat([piece for piece in pieces if piece is not None], dim=1).contiguous())
        if owner == ranks.rank:
            widths = torch.tensor([0] + [facts["columns"][index] for facts in all_facts])
            energy = np.array([facts["energy"][index] for facts in all_facts])
            joined.append(SeedFactors(sides[0], sides[1], widths.cumsum(0), energy))
    return joined
