"""Each seed's gradient times the inverse curvature, in low-rank form: by layer, or by conjugate gradients."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gdig.config.config import Config
from gdig.data.tokens import Example
from gdig.distributed.ranks import Ranks
from gdig.errors import NotFiniteError
from gdig.influence.conjugate_gradients import Search, seeds_at_once, solve
from gdig.influence.curvature_sums import with_ones
from gdig.influence.gauss_newton import GaussNewton
from gdig.influence.inverse import Inverse
from gdig.influence.low_rank import LowRank, compress, factor
from gdig.influence.low_rank_error import ProbeRows
from gdig.influence.search_resume import SearchResume
from gdig.influence.seed_plan import make_groups
from gdig.influence.seeds_resume import PartitionSeeds
from gdig.model.batches import make_batches
from gdig.model.causal_model import Model
from gdig.model.freed_memory import FreedMemory
from gdig.model.layers import Layer
from gdig.model.partition_pass import PartitionPass
from gdig.model.places import Places
from gdig.philox import stream_key
from gdig.progress import Bar
from gdig.store.tensor_file import Named

_PROBE_SEEDS = 32
"""Seeds whose factored and exact scores are compared, evenly spread. An exact score costs a dense product a layer."""

Tokens = list[tuple[torch.Tensor, torch.Tensor]]
"""For each seed of a pass a layer's inputs a [T, J] and output gradients d [T, O]. The constant input of the bias is
among the inputs. An expert that the seed does not go to has T = 0."""


@dataclass
class PreconditionedSeed:
    """The preconditioned gradient of one seed in low-rank form, in the layers of a partition.

    Attributes:
        loss: the loss of the seed.
        factors: for each layer U [O, r] and V [J, r], with H^-1 G ~ U V^T.
        energy: for each layer the share of |H^-1 G|^2 that U V^T keeps.
        scores: float64 [layers, 2, rows], each layer's part of the factored and of the exact score with each probe
            row. A seed that is not compared has no rows.
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
        cls, arrays: Named[NDArray[Any]], metadata: Mapping[str, str], layers: Sequence[Layer]
    ) -> PreconditionedSeed:
        """Make a seed of the content of a file.

        Raises:
            StoreError, ValueError: if it is no seed in these layers.
        """
        factors = []
        for i, layer in enumerate(layers):
            shapes = {f"u{i}": "float O r", f"v{i}": "float J r"}
            arrays.shaped({"O": layer.out_features, "J": layer.width}, **shapes)
            u, v = (torch.tensor(arrays[name]).to(layer.device) for name in shapes)
            factors.append((u, v))
        arrays.shaped({"layers": len(layers)}, scores="float64 layers 2 rows")
        facts = json.loads(metadata["facts"])
        if not (isinstance(facts, dict) and are_facts(facts, len(layers))):
            raise ValueError(f"facts: got {metadata['facts'][:80]}")
        search = tuple(facts["search"]) if facts["search"] else None
        return cls(facts["loss"], factors, facts["energy"], np.array(arrays["scores"]), search)


def are_facts(facts: Mapping[str, Any], layers: int) -> bool:
    """Whether a JSON object has the loss, the energies and the search of a seed in so many layers."""
    energy, search = facts.get("energy"), facts.get("search")
    return (
        isinstance(facts.get("loss"), float)
        and isinstance(energy, list)
        and len(energy) == layers
        and all(isinstance(share, (int, float)) for share in energy)
        and (search is None or (isinstance(search, list) and [type(x) for x in search] == [int, float, bool]))
    )


class SeedPreconditioner:
    """Preconditions this rank's share of the seeds, in the layers of a partition.

    Args:
        model: the frozen model.
        partition: the indices of the layers in the model, rising.
        inverses: the inverse of each of these layers.
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
        partition: Sequence[int],
        inverses: Sequence[Inverse],
        seeds: Sequence[Example],
        probe: Sequence[Example],
        config: Config,
        where: Callable[[int], str],
        ranks: Ranks,
    ) -> None:
        self._model, self._seeds, self._config, self._where, self._ranks = model, seeds, config, where, ranks
        self._gradients = PartitionPass(model, partition, config.loss_reduction)
        self._layers = self._gradients.layers
        self._inverses = inverses
        self._probe = ProbeRows(self._gradients, probe, None if config.inversion == "cg" else inverses)
        self._compared = set(np.unique(np.linspace(0, len(seeds) - 1, _PROBE_SEEDS).round().astype(int)).tolist())
        self.done: dict[int, PreconditionedSeed] = {}

    def invert(self, bar: Bar, resume: PartitionSeeds | None = None) -> None:
        """Precondition by the inverse of each layer.

        Args:
            bar: a bar with one unit a seed.
            resume: has the seeds that an earlier start has done, and keeps those of this start.
        """
        groups = make_groups(self._seeds, self._model.rotary_switch)
        share = [groups[i] for i in self._ranks.share(len(groups))]
        numbers = [number for group in share for number in group]
        self.done = self._load(resume, numbers)
        freed = FreedMemory()
        bar.skip(len(self.done))
        try:
            for group in share:
                if self._model.device.type == "cpu":
                    freed.hand_back()
                unfinished = [number for number in group if number not in self.done]
                if not unfinished:
                    continue
                # All seeds of the group pass, because the bits of a seed depend on the shape of its batch.
                for number, seed in self._invert(group).items():
                    self.done[number] = seed
                    if resume is not None and number in unfinished:
                        resume.keep(number, seed)
                bar.advance(len(unfinished), tokens=sum(len(self._seeds[number]) for number in unfinished))
        except BaseException:
            if resume is not None:
                resume.save()
            raise
        self.done = {number: self.done[number] for number in numbers}

    def _invert(self, numbers: Sequence[int]) -> dict[int, PreconditionedSeed]:
        config, seeds = self._config, {number: self._begin(number) for number in numbers}

        def sink(index: int, tokens: Tokens) -> None:
            inverse = self._inverses[index]
            compared, forms, exact = [], [], []
            for number, (a, d) in zip(numbers, tokens, strict=True):
                if not len(a):
                    continue
                w = inverse.solve(a, d) if number in self._compared or not inverse.separable else None
                if inverse.separable or w is None:
                    u, v, energy = compress(*inverse.tokens(a, d), config.seed_energy, config.seed_rank)
                else:
                    u, v, energy = factor(w, config.seed_energy, config.seed_rank, self._key(index))
                self._set_layer(number, seeds[number], index, (*inverse.back(u, v), energy))
                if number in self._compared and w is not None:
                    compared.append(number)
                    # Rows and W are in the coordinates of `solve`. There, a separable inverse changes nothing.
                    forms.append((u, v))
                    exact.append(w)
            self._compare(seeds, compared, index, forms, exact)

        for number, loss in zip(numbers, self._pass(numbers, sink), strict=True):
            seeds[number].loss = loss
        return seeds

    def search(self, product: GaussNewton, bar: Bar, resume: PartitionSeeds | None = None) -> None:
        """Precondition by conjugate gradients, some seeds side by side.

        Args:
            product: products with the Gauss-Newton matrix.
            bar: a bar with product.rows * cg_iterations units a seed.
            resume: has the seeds and searches of an earlier start, and keeps those of this start.
        """
        numbers = self._ranks.share(len(self._seeds))
        finished = self._load(resume, numbers)
        bar.skip(len(finished) * product.rows * self._config.cg_iterations)
        unfinished = [number for number in numbers if number not in finished]
        step, searches = seeds_at_once(self._model, self._ranks), None
        if resume is not None:
            searches = SearchResume(
                resume.folder, resume.made_from, resume.warn, resume.pace, product, self._layers,
                self._config.cg_iterations, self._dtype,
            )  # fmt: skip
        for i in range(0, len(unfinished), step):
            for number, seed in self._search(unfinished[i : i + step], product, bar, searches):
                finished[number] = seed
                if resume is not None and searches is not None:
                    resume.keep(number, seed, now=True)
                    searches.remove(number)
        self.done = {number: finished[number] for number in numbers}

    def _load(self, resume: PartitionSeeds | None, numbers: Sequence[int]) -> dict[int, PreconditionedSeed]:
        """Return the seeds among `numbers` that an earlier start has done."""
        if resume is None:
            return {}
        decode = partial(PreconditionedSeed.of, layers=self._layers)
        loaded = {number: resume.load(number, decode) for number in numbers}
        return {number: seed for number, seed in loaded.items() if seed is not None}

    def _search(
        self, numbers: Sequence[int], product: GaussNewton, bar: Bar, resume: SearchResume | None
    ) -> Iterator[tuple[int, PreconditionedSeed]]:
        """Search for some seeds side by side, and yield each seed with its number."""
        config = self._config
        seeds = {number: self._begin(number) for number in numbers}
        searches: dict[int, Search] = {}
        for number, seed in seeds.items():
            kept = None if resume is None else resume.load(number)
            searches[number], seed.loss = self._begin_search(number) if kept is None else kept
        for search in searches.values():
            added = 0 if search.begun is None else product.rows_of(search.begun.n_batches)
            bar.skip(search.iterations * product.rows + added)
        losses = {number: seed.loss for number, seed in seeds.items()}
        keep = (lambda: None) if resume is None else partial(resume.keep, searches, losses)
        self._ranks.doing(f"fit: conjugate gradients, seeds {', '.join(map(str, numbers))}")
        names = [self._where(number) for number in numbers]
        solve(product, list(searches.values()), self._inverses, config, names, bar, keep)
        for number, seed in seeds.items():
            search = searches.pop(number)
            for index, w in enumerate(search.x):
                u, v, energy = factor(w, config.seed_energy, config.seed_rank, self._key(index))
                self._set_layer(number, seed, index, (u, v, energy))
                if number in self._compared:
                    self._compare(seeds, [number], index, [(u, v)], [w])
            seed.search = (search.iterations, search.residual, search.converged)
            yield number, seed

    def _begin_search(self, number: int) -> tuple[Search, float]:
        """Pass a seed; return the search for it before its first iteration, and its loss."""
        gradient = [torch.empty(0)] * len(self._layers)

        def sink(index: int, tokens: Tokens) -> None:
            ((a, d),) = tokens
            gradient[index] = d.T @ a

        (loss,) = self._pass([number], sink)
        return Search.begin(gradient, self._inverses), loss

    @property
    def _dtype(self) -> torch.dtype:
        """The dtype of the sums."""
        return torch.promote_types(self._model.dtype, torch.float32)

    def _begin(self, number: int) -> PreconditionedSeed:
        def no_columns(height: int, device: torch.device) -> torch.Tensor:
            return torch.empty(height, 0, dtype=self._dtype, device=device)

        # An expert that the seed does not go to keeps these: no columns, which lose no energy.
        factors = [(no_columns(x.out_features, x.device), no_columns(x.width, x.device)) for x in self._layers]
        n, rows = len(self._layers), self._probe.rows if number in self._compared else 0
        return PreconditionedSeed(0.0, factors, [1.0] * n, np.zeros((n, 2, rows)))

    def _pass(self, numbers: Sequence[int], sink: Callable[[int, Tokens], None]) -> list[float]:
        """Pass some seeds, and return their losses. The sink gets the number of a layer, and each seed's tokens."""
        examples = [self._seeds[number] for number in numbers]
        longest = max(len(example.input_ids) for example in examples)
        (batch,) = make_batches(examples, len(examples) * longest, window=longest)
        order = np.argsort(batch.rows)

        def convert(index: int, a: torch.Tensor, d: torch.Tensor, places: Places) -> None:
            dtype = torch.promote_types(a.dtype, torch.float32)
            a, d = with_ones(a.to(dtype), self._layers[index].width), d.to(dtype)
            lines = [places.line(line, int(batch.lengths[line])) for line in order]
            sink(index, [(a[rows], d[rows]) for rows in lines])

        self._ranks.doing(f"fit: seeds, seeds {', '.join(map(str, numbers))}")
        losses = self._gradients.run(batch, convert)[torch.from_numpy(order)].tolist()
        for number, loss in zip(numbers, losses, strict=True):
            if not np.isfinite(loss):
                raise NotFiniteError(
                    f"{self._where(number)}: expected a finite loss, but its loss is {loss}; check the seed and the "
                    "model's weights"
                )
        return losses

    def _set_layer(self, number: int, seed: PreconditionedSeed, index: int, form: LowRank) -> None:
        u, v, energy = form
        if not bool(torch.isfinite(u).all() & torch.isfinite(v).all()):
            raise NotFiniteError(
                f"{self._where(number)}: expected a finite gradient, but its gradient at "
                f"{self._layers[index].name} is not finite; check the seed and the model's weights"
            )
        # A view of the tokens would keep the tensors of the pass in memory.
        seed.factors[index], seed.energy[index] = (u.contiguous(), v.contiguous()), energy

    def _compare(
        self,
        seeds: dict[int, PreconditionedSeed],
        numbers: Sequence[int],
        index: int,
        forms: Sequence[tuple[torch.Tensor, torch.Tensor]],
        exact: Sequence[torch.Tensor],
    ) -> None:
        """Set the scores of one layer of the compared seeds."""
        if numbers:
            for number, scores in zip(numbers, self._probe.scores(index, forms, exact), strict=True):
                seeds[number].scores[index] = scores

    def _key(self, index: int) -> int:
        """The stream of the signs that the search for low-rank forms starts with, the same for all seeds of a layer."""
        return stream_key("factor", self._config.random_seed, self._layers[index].name) >> 1
