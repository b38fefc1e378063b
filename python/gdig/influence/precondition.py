"""Each seed's gradient times the inverse curvature, in factored form: one seed after the other, or by a search for some
of them side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from gdig.config.config import Config
from gdig.data.tokens import Example
from gdig.distributed.ranks import Ranks
from gdig.errors import ModelError, StoreError
from gdig.influence.conjugate_gradients import seeds_at_once, solve
from gdig.influence.curvature import Factors, with_ones
from gdig.influence.gauss_newton import GaussNewton, Vector
from gdig.influence.inverse import Inverse, factor
from gdig.influence.low_rank_error import both_scores, probe_gradients
from gdig.model.batches import make_batches
from gdig.model.capture import GradientPass
from gdig.model.causal_model import Model
from gdig.philox import stream_key
from gdig.progress import Bar
from gdig.store.tensor_file import read_tensors, write_tensors

_PROBE_SEEDS = 32
"""Seeds on which the probe compares, spread evenly: an exact score costs a dense product a layer."""


@dataclass
class Inverted:
    """A seed, done.

    parts: for each layer U [O, r] and V [J, r], H^-1 G ~ U V^T. energy: for each layer the share of the squared norm
    kept. loss: the seed's. scores: float64 [2, rows], of the factored form and exact with each probe row; without rows
    for a seed that is not compared. search: iterations, residual and whether it converged.
    """

    loss: float
    parts: list[tuple[torch.Tensor, torch.Tensor]]
    energy: list[float]
    scores: np.ndarray
    search: tuple[int, float, bool] | None = None

    def save(self, file: Path) -> None:
        """Write one file; complete or absent."""
        arrays = {"scores": self.scores}
        for i, (u, v) in enumerate(self.parts):
            arrays |= {f"u{i}": u.cpu().numpy(), f"v{i}": v.cpu().numpy()}
        facts = {"loss": self.loss, "energy": self.energy, "search": self.search}
        write_tensors(file, arrays, {"facts": json.dumps(facts)})

    @classmethod
    def load(cls, file: Path, devices: Sequence[torch.device]) -> Inverted | None:
        """Read what `save` wrote; None where that is not there, or damaged."""
        try:
            arrays, metadata = read_tensors(file)
        except StoreError:
            return None
        facts = json.loads(metadata["facts"])
        tensors = {name: torch.tensor(array) for name, array in arrays.items()}
        parts = [(tensors[f"u{i}"].to(device), tensors[f"v{i}"].to(device)) for i, device in enumerate(devices)]
        return cls(facts["loss"], parts, facts["energy"], tensors["scores"].numpy(), tuple(facts["search"]))


class Inverting:
    """Does this rank's seeds; the arguments are those of `precondition_seeds`. `done` holds them by number."""

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
        self._mine = ranks.share(len(seeds))
        self.done: dict[int, Inverted] = {}

    def invert(self, bar: Bar) -> None:
        """By an inverse of each layer for itself."""
        config = self._config
        for number in self._mine:
            one = self._begin(number)

            def sink(index: int, a: torch.Tensor, d: torch.Tensor, number: int = number, one: Inverted = one) -> None:
                inverse = self._inverses[index]
                part = inverse.low_rank(a, d, config.seed_energy, config.seed_rank, self._key(number, index))
                self._keep(number, one, index, part, lambda: inverse.dense(d.T @ a))

            one.loss = self._pass(number, sink)
            self.done[number] = one
            bar.advance(1)

    def search(self, product: GaussNewton, bar: Bar, folder: Path | None = None) -> None:
        """By conjugate gradients, some seeds side by side.

        folder: where each seed is left once it is done, since this takes long; those that are there are not done again.
        """
        found: dict[int, Inverted] = {}
        for number in self._mine:
            one = folder and Inverted.load(self._file(folder, number), [layer.device for layer in self._model.layers])
            if one:
                found[number] = one
                bar.advance(product.rows * self._config.cg_iterations)
        left = [number for number in self._mine if number not in found]
        step = seeds_at_once(self._model, self._ranks)
        for i in range(0, len(left), step):
            for number, one in self._search(left[i : i + step], product, bar):
                found[number] = one
                if folder is not None:
                    one.save(self._file(folder, number))
        self.done = {number: found[number] for number in self._mine}

    def _search(self, numbers: Sequence[int], product: GaussNewton, bar: Bar) -> list[tuple[int, Inverted]]:
        config = self._config
        vectors: list[Vector] = []
        ones = []
        for number in numbers:
            vector = [torch.empty(0)] * len(self._model.layers)

            def sink(index: int, a: torch.Tensor, d: torch.Tensor, vector: Vector = vector) -> None:
                vector[index] = d.T @ a

            ones.append(self._begin(number))
            ones[-1].loss = self._pass(number, sink)
            vectors.append(vector)
        self._ranks.doing(f"fit: conjugate gradients, seeds {', '.join(map(str, numbers))}")
        names = [self._where(number) for number in numbers]
        searches = solve(product, vectors, self._inverses, config, names, bar)
        for number, one, search in zip(numbers, ones, searches, strict=True):
            for index, w in enumerate(search.x):
                part = factor(w, config.seed_energy, config.seed_rank, self._key(number, index))
                self._keep(number, one, index, part, partial(_same, w))
            one.search = (search.iterations, search.residual, search.converged)
        return list(zip(numbers, ones, strict=True))

    def _begin(self, number: int) -> Inverted:
        nothing = torch.empty(0)
        layers = len(self._model.layers)
        rows = len(self._stash) if number in self._compared else 0
        return Inverted(0.0, [(nothing, nothing)] * layers, [0.0] * layers, np.zeros((2, rows)))

    def _pass(self, number: int, sink: Callable[[int, torch.Tensor, torch.Tensor], None]) -> float:
        """Pass a seed; the sink gets a layer's index, a [T, J] and d [T, O]. Returns the loss."""

        def prepared(index: int, a: torch.Tensor, d: torch.Tensor, mask: torch.Tensor) -> None:
            dtype = torch.promote_types(a.dtype, torch.float32)
            sink(index, with_ones(a.to(dtype), self._model.layers[index].width), d.to(dtype))

        self._ranks.doing(f"fit: seeds, seed {number}")
        (batch,) = make_batches([self._seeds[number]], 1, window=len(self._seeds[number].input_ids))
        loss = float(self._gradients.run(batch, prepared)[0])
        if not np.isfinite(loss):
            raise ModelError(f"{self._where(number)}: its loss is {loss}")
        return loss

    def _keep(
        self,
        number: int,
        one: Inverted,
        index: int,
        part: tuple[torch.Tensor, torch.Tensor, float],
        whole: Callable[[], torch.Tensor],
    ) -> None:
        """Keep one layer of a seed in factored form; `whole` gives it exactly."""
        u, v, energy = part
        if not bool(torch.isfinite(u).all() & torch.isfinite(v).all()):
            name = self._model.layers[index].name
            raise ModelError(f"{self._where(number)}: its gradient at {name} is not finite")
        one.parts[index], one.energy[index] = (u, v), energy
        if number in self._compared:
            one.scores += both_scores(u, v, whole(), self._stash, index)

    def _key(self, number: int, index: int) -> int:
        return stream_key("factor", self._config.random_seed, self._model.layers[index].name, number) >> 1

    @staticmethod
    def _file(folder: Path, number: int) -> Path:
        return folder / f"{number:08}.safetensors"


def _same(x: torch.Tensor) -> torch.Tensor:
    return x
