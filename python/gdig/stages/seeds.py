"""The seeds' preconditioned gradients H^-1 G_s, once, in low-rank form; and how far that form is from exact."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
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
from gdig.progress import Bar, Progress
from gdig.random import stream_key
from gdig.stages.conjugate import Search, seeds_at_once, shifts, solve
from gdig.stages.curvature import Factors, with_ones
from gdig.stages.gauss_newton import GaussNewton, Vector
from gdig.stages.inverse import Inverse, factor
from gdig.stages.probe import both_scores, compare, probe_gradients
from gdig.store import read_tensors, write_tensors

_PROBE_SEEDS = 32
"""Seeds on which the probe compares, spread evenly: an exact score costs a dense product a layer."""


_Part = tuple[torch.Tensor, torch.Tensor, float]
"""One layer of a seed: U [O, r], V [J, r], share of the squared norm kept."""


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
    between factored and exact scores on the probe: |factored - exact| / |exact| and Pearson's r over all pairs. Of
    conjugate gradients [S]: iterations, and the residual reached; and how many seeds did not reach cg_tolerance."""

    losses: list[float]
    columns: int
    least_energy: float
    probe_rows: int
    relative_error: float
    correlation: float
    iterations: list[int] = field(default_factory=list)
    residuals: list[float] = field(default_factory=list)
    unconverged: int = 0


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

    Returns:
        The factors of this rank's layers (`Ranks.owners`), in order: of all layers, where there is one rank.

    Raises:
        ModelError: when a seed's loss or gradient is not finite; the message says which.
    """
    ranks = ranks or Ranks()
    work = _Seeds(model, factors, seeds, probe, config, where, ranks)
    if config.inversion == "cg":
        shown = progress.stage("fit: conjugate gradients", len(seeds) * config.cg_iterations * len(sample), "products")
    else:
        shown = progress.stage("fit: seeds", len(seeds), "seeds")
    with shown as unshared:
        bar = ranks.shared(unshared)
        if config.inversion == "cg":
            work.search(GaussNewton(model, sample, shifts(factors, config), config, progress, ranks), bar)
        else:
            work.invert(bar)
        # A JSON number is a float64 to the last bit.
        found = ranks.gather(
            {
                "losses": work.losses,
                "columns": [[u.shape[1] for u, _, _ in part] for part in work.parts],
                "energy": [[kept for _, _, kept in part] for part in work.parts],
                "scores": {number: both.tolist() for number, both in work.scores.items()},
                "searches": [[search.iterations, search.residual, search.converged] for search in work.searches],
            },
            bar,
        )
    joined = _join_layers(work.parts, found, model, ranks)
    losses = [loss for one in found for loss in one["losses"]]
    least = min(kept for one in found for layer in one["energy"] for kept in layer)
    columns = sum(n for one in found for layer in one["columns"] for n in layer)
    by_seed = {int(number): both for one in found for number, both in one["scores"].items()}
    error, correlation = compare(np.array([by_seed[number] for number in sorted(by_seed)]))
    ended = [search for one in found for search in one["searches"]]
    return joined, SeedReport(
        losses, columns, least, len(probe), error, correlation,
        iterations=[iterations for iterations, _, _ in ended],
        residuals=[residual for _, residual, _ in ended],
        unconverged=sum(not converged for _, _, converged in ended),
    )  # fmt: skip


class _Seeds:
    """This rank's seeds, one after the other: what has become of them."""

    def __init__(
        self,
        model: Model,
        factors: Sequence[Factors | None],
        seeds: Sequence[Example],
        probe: Sequence[Example],
        config: Config,
        where: Callable[[int], str],
        ranks: Ranks,
    ) -> None:
        self._model, self._seeds, self._config, self._where, self._ranks = model, seeds, config, where, ranks
        self._gradients = GradientPass(model, config.loss_reduction)
        self._inverses = [Inverse(f, config, layer.name) for f, layer in zip(factors, model.layers, strict=True)]
        self._stash = probe_gradients(self._gradients, probe)
        self._compared = set(np.unique(np.linspace(0, len(seeds) - 1, _PROBE_SEEDS).round().astype(int)).tolist())
        self._mine = ranks.part(len(seeds))
        self.losses: list[float] = []
        self.searches: list[Search] = []
        self.parts: list[list[_Part]] = [[] for _ in model.layers]
        self.scores: dict[int, np.ndarray] = {}  # with each probe row: factored, exact; float64 [2, rows]

    def invert(self, bar: Bar) -> None:
        """By an inverse of each layer for itself."""
        for number in self._mine:

            def sink(index: int, a: torch.Tensor, d: torch.Tensor, number: int = number) -> None:
                inverse, config = self._inverses[index], self._config
                part = inverse.low_rank(a, d, config.seed_energy, config.seed_rank, self._key(number, index))
                self._keep(number, index, part, lambda: inverse.dense(d.T @ a))

            self._pass(number, sink)
            bar.advance(1)

    def search(self, product: GaussNewton, bar: Bar) -> None:
        """By conjugate gradients, as many seeds side by side as fit."""
        layers, mine = self._model.layers, self._mine
        step = seeds_at_once(self._model, max(1, len(mine)), self._ranks)
        for first in range(0, len(mine), step):
            numbers = mine[first : first + step]
            vectors: list[Vector] = []
            for number in numbers:
                vector = [torch.empty(0)] * len(layers)

                def sink(index: int, a: torch.Tensor, d: torch.Tensor, vector: Vector = vector) -> None:
                    vector[index] = d.T @ a

                self._pass(number, sink)
                vectors.append(vector)
            self._ranks.doing(f"fit: conjugate gradients, seeds {numbers[0]} to {numbers[-1]}")
            names = [self._where(number) for number in numbers]
            found = solve(product, vectors, self._inverses, self._config, names, bar)
            for number, search in zip(numbers, found, strict=True):
                for index, w in enumerate(search.x):
                    part = factor(w, self._config.seed_energy, self._config.seed_rank, self._key(number, index))
                    self._keep(number, index, part, partial(_same, w))
                search.drop()
            self.searches.extend(found)

    def _pass(self, number: int, sink: Callable[[int, torch.Tensor, torch.Tensor], None]) -> None:
        """Pass a seed; the sink gets a layer's index, a [T, J] and d [T, O]."""

        def prepared(index: int, a: torch.Tensor, d: torch.Tensor, keep: torch.Tensor) -> None:
            dtype = torch.promote_types(a.dtype, torch.float32)
            sink(index, with_ones(a.to(dtype), self._model.layers[index].width), d.to(dtype))

        self._ranks.doing(f"fit: seeds, seed {number}")
        (batch,) = make_batches([self._seeds[number]], 1, window=len(self._seeds[number].input_ids))
        loss = float(self._gradients.run(batch, prepared)[0])
        if not np.isfinite(loss):
            raise ModelError(f"{self._where(number)}: its loss is {loss}")
        self.losses.append(loss)

    def _keep(self, number: int, index: int, part: _Part, whole: Callable[[], torch.Tensor]) -> None:
        """Keep one layer of a seed in factored form; `whole` gives it exactly."""
        if not bool(torch.isfinite(part[0]).all() & torch.isfinite(part[1]).all()):
            name = self._model.layers[index].name
            raise ModelError(f"{self._where(number)}: its gradient at {name} is not finite")
        self.parts[index].append(part)
        if number in self._compared:
            both = self.scores.setdefault(number, np.zeros((2, len(self._stash))))
            both += both_scores(part, whole(), self._stash, index)

    def _key(self, number: int, index: int) -> int:
        return stream_key("factor", self._config.seed, self._model.layers[index].name, number) >> 1


def _same(x: torch.Tensor) -> torch.Tensor:
    return x


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
