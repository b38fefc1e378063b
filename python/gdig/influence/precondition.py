"""Each seed's gradient times the inverse curvature, in low-rank form: by layer, or by conjugate gradients."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from gdig.config.config import Config
from gdig.data.tokens import Example
from gdig.distributed.ranks import Ranks
from gdig.errors import ModelError
from gdig.influence.conjugate_gradients import seeds_at_once, solve
from gdig.influence.curvature import with_ones
from gdig.influence.factors import Factors
from gdig.influence.gauss_newton import GaussNewton, Vector
from gdig.influence.inverse import Inverse, factor
from gdig.influence.low_rank_error import both_scores, probe_gradients
from gdig.influence.seeds_resume import SeedsResume
from gdig.model.batches import make_batches
from gdig.model.capture import GradientPass
from gdig.model.causal_model import Model
from gdig.philox import stream_key
from gdig.progress import Bar

_PROBE_SEEDS = 32
"""Seeds whose factored and exact scores are compared, evenly spread. An exact score costs a dense product a layer."""

LowRank = tuple[torch.Tensor, torch.Tensor, float]
"""U [O, r] and V [J, r] with H^-1 G ~ U V^T, and the share of |H^-1 G|^2 that they keep."""


@dataclass
class PreconditionedSeed:
    """The preconditioned gradient of one seed in low-rank form.

    Attributes:
        loss: the loss of the seed.
        factors: for each layer U [O, r] and V [J, r], with H^-1 G ~ U V^T.
        energy: for each layer the share of |H^-1 G|^2 that U V^T keeps.
        scores: float64 [2, rows], the factored and the exact score with each probe row. A seed that is not compared
            has no rows.
        search: iterations, residual, and whether the search converged; None without a search.
    """

    loss: float
    factors: list[tuple[torch.Tensor, torch.Tensor]]
    energy: list[float]
    scores: np.ndarray
    search: tuple[int, float, bool] | None = None

    def content(self) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """Return the tensors and the metadata of a file."""
        arrays = {"scores": self.scores}
        for i, (u, v) in enumerate(self.factors):
            arrays |= {f"u{i}": u.cpu().numpy(), f"v{i}": v.cpu().numpy()}
        facts = {"loss": self.loss, "energy": self.energy, "search": self.search}
        return arrays, {"facts": json.dumps(facts)}

    @classmethod
    def of(
        cls, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str], devices: Sequence[torch.device]
    ) -> PreconditionedSeed:
        """Make a seed of the content of a file. `devices`: the device of each layer."""
        facts = json.loads(metadata["facts"])
        tensors = {name: torch.tensor(array) for name, array in arrays.items()}
        factors = [(tensors[f"u{i}"].to(device), tensors[f"v{i}"].to(device)) for i, device in enumerate(devices)]
        search = tuple(facts["search"]) if facts["search"] else None
        return cls(facts["loss"], factors, facts["energy"], tensors["scores"].numpy(), search)


class SeedPreconditioner:
    """Preconditions this rank's share of the seeds.

    Args:
        model: the frozen model.
        factors: the curvature of each layer, or None for the identity.
        seeds: all seeds, in order.
        probe: the probe rows.
        config: inversion, damping, seed_energy, seed_rank, loss_reduction, random_seed.
        where: returns the place of a seed, by its number, for errors.
        ranks: the ranks that share the seeds.

    Attributes:
        done: this rank's preconditioned seeds by number.
    """

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
        self._probe_tokens = probe_gradients(self._gradients, probe)
        self._compared = set(np.unique(np.linspace(0, len(seeds) - 1, _PROBE_SEEDS).round().astype(int)).tolist())
        self._numbers = ranks.share(len(seeds))
        self.done: dict[int, PreconditionedSeed] = {}

    def invert(self, bar: Bar, resume: SeedsResume | None = None) -> None:
        """Precondition by the inverse of each layer.

        Args:
            bar: a bar with one unit a seed.
            resume: has the seeds that an earlier start has done, and keeps those of this start.
        """
        self.done = self._load(resume)
        bar.skip(len(self.done))
        try:
            for number in self._numbers:
                if number not in self.done:
                    self.done[number] = self._invert(number)
                    if resume is not None:
                        resume.keep(number, self.done[number])
                    bar.advance(1)
        except BaseException:
            if resume is not None:
                resume.save()
            raise
        self.done = {number: self.done[number] for number in self._numbers}

    def _invert(self, number: int) -> PreconditionedSeed:
        config, seed = self._config, self._begin(number)

        def sink(index: int, a: torch.Tensor, d: torch.Tensor) -> None:
            inverse = self._inverses[index]
            form = inverse.low_rank(a, d, config.seed_energy, config.seed_rank, self._key(number, index))
            self._set_layer(number, seed, index, form, lambda: inverse.dense(d.T @ a))

        seed.loss = self._pass(number, sink)
        return seed

    def search(self, product: GaussNewton, bar: Bar, resume: SeedsResume | None = None) -> None:
        """Precondition by conjugate gradients, some seeds side by side.

        Args:
            product: products with the Gauss-Newton matrix.
            bar: a bar with product.rows * cg_iterations units a seed.
            resume: has the seeds that an earlier start has done, and keeps those of this start.
        """
        finished = self._load(resume)
        bar.skip(len(finished) * product.rows * self._config.cg_iterations)
        unfinished = [number for number in self._numbers if number not in finished]
        step = seeds_at_once(self._model, self._ranks)
        for i in range(0, len(unfinished), step):
            for number, seed in self._search(unfinished[i : i + step], product, bar):
                finished[number] = seed
                if resume is not None:
                    resume.keep(number, seed, now=True)
        self.done = {number: finished[number] for number in self._numbers}

    def _load(self, resume: SeedsResume | None) -> dict[int, PreconditionedSeed]:
        """This rank's seeds that an earlier start has done."""
        if resume is None:
            return {}
        decode = partial(PreconditionedSeed.of, devices=[layer.device for layer in self._model.layers])
        loaded = {number: resume.load(number, decode) for number in self._numbers}
        return {number: seed for number, seed in loaded.items() if seed is not None}

    def _search(self, numbers: Sequence[int], product: GaussNewton, bar: Bar) -> list[tuple[int, PreconditionedSeed]]:
        config = self._config
        gradients: list[Vector] = []
        seeds = []
        for number in numbers:
            gradient = [torch.empty(0)] * len(self._model.layers)

            def sink(index: int, a: torch.Tensor, d: torch.Tensor, gradient: Vector = gradient) -> None:
                gradient[index] = d.T @ a

            seeds.append(self._begin(number))
            seeds[-1].loss = self._pass(number, sink)
            gradients.append(gradient)
        self._ranks.doing(f"fit: conjugate gradients, seeds {', '.join(map(str, numbers))}")
        names = [self._where(number) for number in numbers]
        searches = solve(product, gradients, self._inverses, config, names, bar)
        for number, seed, search in zip(numbers, seeds, searches, strict=True):
            for index, w in enumerate(search.x):
                form = factor(w, config.seed_energy, config.seed_rank, self._key(number, index))
                self._set_layer(number, seed, index, form, partial(_identity, w))
            seed.search = (search.iterations, search.residual, search.converged)
        return list(zip(numbers, seeds, strict=True))

    def _begin(self, number: int) -> PreconditionedSeed:
        empty = torch.empty(0)
        layers = len(self._model.layers)
        rows = len(self._probe_tokens) if number in self._compared else 0
        return PreconditionedSeed(0.0, [(empty, empty)] * layers, [0.0] * layers, np.zeros((2, rows)))

    def _pass(self, number: int, sink: Callable[[int, torch.Tensor, torch.Tensor], None]) -> float:
        """Pass a seed, and return its loss. The sink gets the number of a layer, a [T, J] and d [T, O]."""

        def convert(index: int, a: torch.Tensor, d: torch.Tensor, mask: torch.Tensor) -> None:
            dtype = torch.promote_types(a.dtype, torch.float32)
            sink(index, with_ones(a.to(dtype), self._model.layers[index].width), d.to(dtype))

        self._ranks.doing(f"fit: seeds, seed {number}")
        (batch,) = make_batches([self._seeds[number]], 1, window=len(self._seeds[number].input_ids))
        loss = float(self._gradients.run(batch, convert)[0])
        if not np.isfinite(loss):
            raise ModelError(
                f"{self._where(number)}: expected a finite loss, but its loss is {loss}; check the seed and the "
                "model's weights"
            )
        return loss

    def _set_layer(
        self, number: int, seed: PreconditionedSeed, index: int, form: LowRank, exact: Callable[[], torch.Tensor]
    ) -> None:
        """Set one layer of a seed. `exact` returns H^-1 G [O, J]."""
        u, v, energy = form
        if not bool(torch.isfinite(u).all() & torch.isfinite(v).all()):
            raise ModelError(
                f"{self._where(number)}: expected a finite gradient, but its gradient at "
                f"{self._model.layers[index].name} is not finite; check the seed and the model's weights"
            )
        seed.factors[index], seed.energy[index] = (u, v), energy
        if number in self._compared:
            seed.scores += both_scores(u, v, exact(), self._probe_tokens, index)

    def _key(self, number: int, index: int) -> int:
        return stream_key("factor", self._config.random_seed, self._model.layers[index].name, number) >> 1


def _identity(x: torch.Tensor) -> torch.Tensor:
    return x
