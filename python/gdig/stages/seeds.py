"""The seeds' preconditioned gradients H^-1 G_s, once, in low-rank form; and how far that form is from exact."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from gdig.config import Config
from gdig.data.tokens import Example
from gdig.distributed import Ranks
from gdig.errors import ModelError
from gdig.exchange import Exchange
from gdig.model.batches import make_batches
from gdig.model.capture import GradientPass
from gdig.model.load import Model
from gdig.progress import Progress
from gdig.random import stream_key
from gdig.stages.curvature import Factors, with_ones
from gdig.stages.inverse import Inverse
from gdig.store import read_tensors, write_tensors

_PROBE_SEEDS = 32
"""Seeds on which the probe compares, spread evenly: an exact score costs a dense product a layer."""


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
        u, v, offsets = (torch.from_numpy(np.array(arrays[name])) for name in ("u", "v", "column_offsets"))
        return cls(u.to(device), v.to(device), offsets, np.array(arrays["energy"]))


@dataclass(frozen=True)
class SeedReport:
    """Losses [S] of the seeds, columns over all layers, least energy kept by any seed in any layer, and the difference
    between factored and exact scores on the probe: |factored - exact| / |exact| and Pearson's r over all pairs."""

    losses: list[float]
    columns: int
    least_energy: float
    probe_rows: int
    relative_error: float
    correlation: float


def precondition_seeds(
    model: Model,
    factors: Sequence[Factors | None],
    seeds: Sequence[Example],
    probe: Sequence[Example],
    config: Config,
    progress: Progress,
    where: Callable[[int], str] = "seed {}".format,
    ranks: Ranks | None = None,
) -> tuple[list[SeedFactors], SeedReport]:
    """Apply the inverse Hessian to every seed's gradient and factor the result.

    Args:
        model: the frozen model.
        factors: curvature of each layer, or None for the identity.
        seeds: the seeds, in order.
        probe: candidates on which factored and exact scores are compared.
        config: inversion, damping, seed_energy, seed_rank, loss_reduction, seed.
        progress: where to show it.
        where: says where a seed stands, by its number, for errors.
        ranks: who takes part; all are here with the same arguments. Each takes a run of the seeds.

    Returns:
        The factors of this rank's layers (`Ranks.owners`), in order: of all layers, where there is one rank.

    Raises:
        ModelError: when a seed's loss or gradient is not finite; the message says which.
    """
    ranks = ranks or Ranks()
    gradients = GradientPass(model, config.loss_reduction)
    inverses = [Inverse(f, config, layer.name) for f, layer in zip(factors, model.layers, strict=True)]
    stash = _probe_gradients(gradients, probe)
    compared = set(np.unique(np.linspace(0, len(seeds) - 1, _PROBE_SEEDS).round().astype(int)).tolist())
    parts: list[list[tuple[torch.Tensor, torch.Tensor, float]]] = [[] for _ in model.layers]
    scores: dict[int, np.ndarray] = {}  # of a compared seed with each probe row: factored, exact; float64 [2, rows]
    losses: list[float] = []
    mine = ranks.part(len(seeds))

    def sink(index: int, a: torch.Tensor, d: torch.Tensor, keep: torch.Tensor) -> None:
        number = mine[len(losses)]
        dtype = torch.promote_types(a.dtype, torch.float32)
        a, d = with_ones(a.to(dtype), model.layers[index].width), d.to(dtype)
        key = stream_key("factor", config.seed, model.layers[index].name, number) >> 1
        part = inverses[index].low_rank(a, d, config.seed_energy, config.seed_rank, key)
        if not bool(torch.isfinite(part[0]).all() & torch.isfinite(part[1]).all()):
            raise ModelError(f"{where(number)}: its gradient at {model.layers[index].name} is not finite")
        parts[index].append(part)
        if number in compared:
            both = scores.setdefault(number, np.zeros((2, len(probe))))
            both += _both_scores(part, inverses[index].dense(d.T @ a), stash, index)

    with progress.stage("fit: seeds", len(seeds), "seeds") as shown:
        bar = ranks.shared(shown)
        for number in mine:
            ranks.doing(f"fit: seeds, seed {number}")
            (batch,) = make_batches([seeds[number]], 1, window=len(seeds[number].input_ids))
            loss = float(gradients.run(batch, sink)[0])
            if not np.isfinite(loss):
                raise ModelError(f"{where(number)}: its loss is {loss}")
            losses.append(loss)
            bar.advance(1)
        # A JSON number is a float64 to the last bit.
        found = ranks.gather(
            {
                "losses": losses,
                "columns": [[u.shape[1] for u, _, _ in part] for part in parts],
                "energy": [[kept for _, _, kept in part] for part in parts],
                "scores": {number: both.tolist() for number, both in scores.items()},
            },
            bar,
        )
    joined = _join_layers(parts, found, model, ranks)
    losses = [loss for one in found for loss in one["losses"]]
    least = min(kept for one in found for layer in one["energy"] for kept in layer)
    columns = sum(n for one in found for layer in one["columns"] for n in layer)
    by_seed = {int(number): both for one in found for number, both in one["scores"].items()}
    error, correlation = _compare(np.array([by_seed[number] for number in sorted(compared)]))
    return joined, SeedReport(losses, columns, least, len(probe), error, correlation)


def _join_layers(parts: list[list], found: list[dict], model: Model, ranks: Ranks) -> list[SeedFactors]:
    """Bring the parts of all seeds of a layer to the rank that it belongs to, and put them side by side, in order."""
    exchange, joined = Exchange(ranks, model.device), []
    for index, owner in enumerate(ranks.owners(len(model.layers))):
        own = [torch.cat([part[side] for part in parts[index]], dim=1) if parts[index] else None for side in (0, 1)]
        layer, parts[index] = model.layers[index], []
        dtype = torch.promote_types(model.dtype, torch.float32)
        sides: list[torch.Tensor] = []
        for mine, height in zip(own, (layer.out_features, layer.width), strict=True):
            pieces = []
            for source, one in enumerate(found):
                if sum(one["columns"][index]) == 0:
                    continue
                shape = (height, sum(one["columns"][index]))
                piece = mine if source == ranks.rank else torch.empty(shape, dtype=dtype, device=layer.device)
                assert piece is not None
                pieces.append(exchange.move(piece, source, owner) if ranks.rank in (source, owner) else None)
            if owner == ranks.rank:
                sides.append(torch.cat([piece for piece in pieces if piece is not None], dim=1).contiguous())
        if owner == ranks.rank:
            widths = torch.tensor([0] + [n for one in found for n in one["columns"][index]])
            energy = np.array([kept for one in found for kept in one["energy"][index]])
            joined.append(SeedFactors(sides[0], sides[1], widths.cumsum(0), energy))
    return joined


_Stash = list[list[tuple[torch.Tensor, torch.Tensor]]]
"""For each probe row and layer: a [T, J], d [T, O]."""


def _probe_gradients(gradients: GradientPass, probe: Sequence[Example]) -> _Stash:
    stash: _Stash = []
    layers = gradients.model.layers
    for example in probe:
        row: list = [None] * len(layers)

        def sink(index: int, a: torch.Tensor, d: torch.Tensor, keep: torch.Tensor, row: list = row) -> None:
            dtype = torch.promote_types(a.dtype, torch.float32)
            row[index] = (with_ones(a.to(dtype), layers[index].width), d.to(dtype).clone())

        (batch,) = make_batches([example], 1, window=len(example.input_ids))
        gradients.run(batch, sink)
        stash.append(row)
    return stash


def _both_scores(part: tuple, w: torch.Tensor, stash: _Stash, index: int) -> np.ndarray:
    """<G_e, H^-1 G_s> of one seed and layer with each probe row, of the factored form and exact: float64 [2, rows].

    Seed by seed, so that a figure does not depend on which other seeds are at hand.
    """
    u, v, _ = part
    factored = [float(((row[index][1] @ u) * (row[index][0] @ v)).double().sum()) for row in stash]
    exact = [float(((row[index][1] @ w) * row[index][0]).double().sum()) for row in stash]
    return np.array([factored, exact])


def _compare(scores: np.ndarray) -> tuple[float, float]:
    """Relative error and correlation of the factored scores over (compared seed, probe row): scores [S, 2, rows]."""
    x, y = scores[:, 0].ravel(), scores[:, 1].ravel()
    if not len(x):
        return float("nan"), float("nan")
    size = float(np.linalg.norm(y))
    error = float(np.linalg.norm(x - y)) / size if size else 0.0
    correlation = float(np.corrcoef(x, y)[0, 1]) if x.std() and y.std() else float("nan")
    return error, correlation
