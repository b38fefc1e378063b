"""The seeds' preconditioned gradients H^-1 G_s, once, in low-rank form; and how far that form is from exact."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from gdig.config.config import Config
from gdig.data.tokens import Example
from gdig.distributed.ranks import Ranks
from gdig.distributed.tensors import Exchange
from gdig.influence.conjugate_gradients import shifts
from gdig.influence.curvature import Factors
from gdig.influence.gauss_newton import GaussNewton
from gdig.influence.low_rank_error import compare
from gdig.influence.precondition import Inverting
from gdig.model.causal_model import Model
from gdig.progress import Progress
from gdig.run.record import SeedReport
from gdig.store.tensor_file import read_tensors, write_tensors


@dataclass
class SeedFactors:
    """One layer's preconditioned seed gradients side by side.

    u [O, C], v [J, C]: seed s owns the columns column_offsets[s] .. column_offsets[s + 1] - 1, int64 [S + 1] on the
    CPU, and H^-1 G_s ~ U_s V_s^T. energy float64 [S]: the share of |H^-1 G_s|^2 kept.
    """

    u: torch.Tensor
    v: torch.Tensor
    column_offsets: torch.Tensor
    energy: np.ndarray

    def save(self, path: Path, layer: str) -> None:
        """Write one file; complete or absent."""
        write_tensors(
            path,
            {
                "u": self.u.cpu().numpy(),
                "v": self.v.cpu().numpy(),
                "column_offsets": self.column_offsets.numpy(),
                "energy": self.energy,
            },
            {"layer": layer},
        )

    @classmethod
    def load(cls, path: Path, device: torch.device) -> SeedFactors:
        """Read what `save` wrote."""
        arrays, _ = read_tensors(path)
        u, v, offsets = (torch.tensor(arrays[name]) for name in ("u", "v", "column_offsets"))
        return cls(u.to(device), v.to(device), offsets, np.array(arrays["energy"]))


def precondition_seeds(
    model: Model,
    factors: Sequence[Factors | None],
    seeds: Sequence[Example],
    probe: Sequence[Example],
    config: Config,
    progress: Progress,
    where: Callable[[int], str] = "seed {}".format,
    ranks: Ranks | None = None,
    sample: Sequence[Example] = (),
    kept: Path | None = None,
) -> tuple[list[SeedFactors], SeedReport]:
    """Apply the inverse Hessian to every seed's gradient and factor the result.

    Args:
        model: the frozen model.
        factors: curvature of each layer, or None for the identity.
        seeds: the seeds, in order.
        probe: candidates on which factored and exact scores are compared.
        config: inversion, damping, seed_energy, seed_rank, loss_reduction, seed; for cg its own and those of a pass.
        progress: where to show it.
        where: says where a seed stands, by its number, for errors.
        ranks: who takes part; all are here with the same arguments. Each takes a run of the seeds.
        sample: rows of the pool whose Gauss-Newton matrix inversion "cg" inverts.
        kept: folder where "cg" leaves each seed that it has done, and finds those of an earlier start.

    Returns:
        The factors of this rank's layers (`Ranks.owners`), in order: of all layers, where there is one rank.

    Raises:
        ModelError: when a seed's loss or gradient is not finite; the message says which.
    """
    ranks = ranks or Ranks()
    work = Inverting(model, factors, seeds, probe, config, where, ranks)
    if config.inversion == "cg":
        shown = progress.stage("fit: conjugate gradients", len(seeds) * config.cg_iterations * len(sample), "products")
    else:
        shown = progress.stage("fit: seeds", len(seeds), "seeds")
    with shown as unshared:
        bar = ranks.shared_bar(unshared)
        if config.inversion == "cg":
            work.search(GaussNewton(model, sample, shifts(factors, config), config, progress, ranks), bar, kept)
        else:
            work.invert(bar)
        # A JSON number is a float64 to the last bit.
        found = ranks.gather(
            [
                {
                    "loss": one.loss,
                    "columns": [u.shape[1] for u, _ in one.parts],
                    "energy": one.energy,
                    "scores": one.scores.tolist(),
                    "search": one.search,
                }
                for one in work.done.values()
            ],
            bar,
        )
    joined = _join_layers([one.parts for one in work.done.values()], found, model, ranks)
    ones = [one for part in found for one in part]
    columns = sum(sum(one["columns"]) for one in ones)
    least = min(min(one["energy"]) for one in ones)
    compared = [one["scores"] for one in ones if one["scores"][0]]
    error, correlation = compare(np.array(compared or np.zeros((0, 2, 0))))
    losses, ended = [one["loss"] for one in ones], [one["search"] for one in ones if one["search"]]
    return joined, SeedReport(
        losses=tuple(losses),
        columns=columns,
        least_energy=least,
        probe_rows=len(probe),
        relative_error=error,
        correlation=correlation,
        iterations=tuple(iterations for iterations, _, _ in ended),
        residuals=tuple(residual for _, residual, _ in ended),
        unconverged=sum(not converged for _, _, converged in ended),
    )


def _join_layers(parts: list[list], found: list[list[dict]], model: Model, ranks: Ranks) -> list[SeedFactors]:
    """Bring a layer's parts of all seeds to the rank that it belongs to, and put them side by side, in order.

    parts: of this rank's seeds, for each layer U and V; emptied. found: by rank, of its seeds, columns and energy.
    """
    exchange, joined = Exchange(ranks, model.device), []
    for index, owner in enumerate(ranks.owners(len(model.layers))):
        layer = model.layers[index]
        own = [torch.cat([one[index][side] for one in parts], dim=1) if parts else None for side in (0, 1)]
        for one in parts:
            one[index] = None
        dtype = torch.promote_types(model.dtype, torch.float32)
        sides: list[torch.Tensor] = []
        for mine, height in zip(own, (layer.out_features, layer.width), strict=True):
            pieces = []
            for source, ones in enumerate(found):
                columns = sum(one["columns"][index] for one in ones)
                if columns == 0:
                    continue
                shape = (height, columns)
                piece = mine if source == ranks.rank else torch.empty(shape, dtype=dtype, device=layer.device)
                assert piece is not None
                pieces.append(exchange.move(piece, source, owner) if ranks.rank in (source, owner) else None)
            if owner == ranks.rank:
                sides.append(torch.cat([piece for piece in pieces if piece is not None], dim=1).contiguous())
        if owner == ranks.rank:
            every = [one for ones in found for one in ones]
            widths = torch.tensor([0] + [one["columns"][index] for one in every])
            energy = np.array([one["energy"][index] for one in every])
            joined.append(SeedFactors(sides[0], sides[1], widths.cumsum(0), energy))
    return joined
