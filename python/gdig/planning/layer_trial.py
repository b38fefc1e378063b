"""A trial of what each kind of layer costs beside the model's passes, on the inputs and gradients of one batch.

The steps are those of the run: the sums of A and S, eigenvectors, EK-FAC's eigenvalues, the seeds' low-rank forms, the
scores and the sketch. Costs go by the layer's kind, so that the layers of a trial stand for all layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean

import numpy as np
import torch

from gdig import ops
from gdig.config.config import Config
from gdig.influence.curvature_sums import mean_matrix, moments_sink, squares_sink, with_ones, zero_triangles
from gdig.influence.dense_plan import COLUMNS, Dense
from gdig.influence.factors import Factors, eigenbasis
from gdig.influence.inverse import Inverse
from gdig.influence.layer_scores import ExpertScorer, Scorer
from gdig.influence.low_rank import compress, factor
from gdig.influence.rotations import rotations_in_bfloat16
from gdig.influence.seed_factors import SeedFactors
from gdig.model.capture import ExpertsSink, Sink
from gdig.model.causal_model import Model
from gdig.model.layers import Layer
from gdig.model.optimizer import Moments
from gdig.model.places import ExpertPlaces, Places
from gdig.model.precision import float32_products
from gdig.ops import ExpertRows, Segments
from gdig.passes.row_pass import sum_dtype
from gdig.passes.sketch import Sketchers
from gdig.planning.pass_trial import Captured, Kind, kind_of
from gdig.planning.stopwatch import Stopwatch

_WIDEST = {"cpu": 1536, "cuda": 4096}
"""Widest factor whose eigenvectors are computed in the trial. A wider one is taken to cost by the cube of its width."""
_TRIAL_SEEDS = 64
_DENSE_BYTES = 1 << 28
"""Most memory of W in the trial. More seeds cost in proportion."""


@dataclass
class LayerCost:
    """Seconds of a layer beside the model's pass.

    Attributes:
        moments: a token in the sums of A and S.
        eigenvectors: of both factors.
        squares: a token in EK-FAC's eigenvalues.
        inverse: the inverse, once.
        coordinates: a token of a probe row.
        seed: a seed.
        compared: a token of the probe rows, for each seed that is compared.
        columns: of a seed, a number and no time.
        energy: share of the squared norm that they keep, likewise.
        sketch: a token. whiten: the projections, once.
        scores: a token, for all seeds, by how the layer scores. dense: W of all seeds, once, likewise.
        checkpoint: a token in the pass over a training checkpoint.
    """

    moments: float = 0.0
    eigenvectors: float = 0.0
    squares: float = 0.0
    inverse: float = 0.0
    coordinates: float = 0.0
    seed: float = 0.0
    compared: float = 0.0
    columns: float = 0.0
    energy: float = 1.0
    sketch: float = 0.0
    whiten: float = 0.0
    checkpoint: float = 0.0
    scores: dict[Dense, float] = field(default_factory=dict)
    dense: dict[Dense, float] = field(default_factory=dict)


class LayerTrial:
    """Measures the layers of a trial.

    Args:
        model: the model with the layers of the trial.
        captured: of a pass over rows of the pool.
        config: the options of the run.
        watch: measures.

    Attributes:
        costs: of each layer of the trial.
    """

    def __init__(self, model: Model, captured: Captured, config: Config, watch: Stopwatch) -> None:
        self._model, self._config, self._watch = model, config, watch
        self._captured, self._n = captured, captured.batch.input_ids.size
        self._factors: list[Factors | None] = [None] * len(model.layers)
        self._forms: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[] for _ in model.layers]
        self.costs = [LayerCost() for _ in model.layers]

    def fit(self) -> None:
        """Measure what the curvature takes, and keep the factors of the batch."""
        if self._config.inversion == "identity":
            return
        layers, batch, config = self._model.layers, self._captured.batch, self._config
        reduce = config.kfac_approx == "reduce"
        sums = zero_triangles(self._model, layers)
        for indices, a, d, places in self._captured.calls:
            once = self._time(lambda: self._give(moments_sink(layers, sums, reduce, set()), indices, a, d, places))  # noqa: B023
            self._share("moments", indices, once)
        count = len(batch.rows) if reduce else self._n
        bases: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        sides = []
        for index, layer in enumerate(layers):
            of_a, of_s = sums[index]
            if layer.input_name not in bases:
                seconds, bases[layer.input_name] = self._basis(of_a, count, layer.device, layer.name)
                self.costs[index].eigenvectors += seconds
            seconds, of_outputs = self._basis(of_s, count, layer.device, layer.name)
            self.costs[index].eigenvectors += seconds
            sides.append((*bases[layer.input_name], *of_outputs))
        pairs = [(q_a, q_s) for q_a, _, q_s, _ in sides]
        squares = [torch.zeros(len(q_s), len(q_a), dtype=q_a.dtype, device=q_a.device) for q_a, q_s in pairs]
        if config.inversion != "kfac":
            bfloat16 = rotations_in_bfloat16(config, self._model.device)
            sinks = squares_sink(layers, pairs, squares, set(), bfloat16)
            for indices, a, d, places in self._captured.calls:  # a rotated input serves the next layer that reads it
                begun = self._watch.now()
                with float32_products(config.matmul_precision):
                    self._give(sinks, indices, a, d, places)
                self._share("squares", indices, self._watch.now() - begun)
        for index, (q_a, l_a, q_s, l_s) in enumerate(sides):
            corrected = None if config.inversion == "kfac" else squares[index] / len(batch.rows)
            self._factors[index] = Factors(q_a, q_s, l_a, l_s, corrected, self._n, len(batch.rows), reduce)

    def seeds(self, captured: Captured, probe_tokens: int) -> None:
        """Measure what a seed takes: `captured` is a pass over some seeds."""
        config, lengths = self._config, captured.batch.lengths.tolist()
        for index, a, d, places in captured.layers:
            layer, f, cost, key = self._model.layers[index], self._factors[index], self.costs[index], 17 * index
            cost.inverse = self._time(lambda: Inverse(f, config))  # noqa: B023
            inverse, dtype = Inverse(f, config), torch.promote_types(a.dtype, torch.float32)
            inputs, outputs = with_ones(a.to(dtype), layer.width), d.to(dtype)
            times, energies, exact = [], [], []
            for line, length in enumerate(lengths):
                rows = places.line(line, length)
                tokens = inputs[rows], outputs[rows]
                if not len(tokens[0]):
                    continue  # an expert that the seed does not go to
                begun = self._watch.now()
                if inverse.separable:
                    u, v, energy = compress(*inverse.tokens(*tokens), config.seed_energy, config.seed_rank)
                else:
                    w = inverse.solve(*tokens)
                    u, v, energy = factor(w, config.seed_energy, config.seed_rank, key + line)
                form = inverse.back(u, v)
                times.append(self._watch.now() - begun)
                energies.append(energy)
                self._forms[index].append(form)
                exact.append((u, v))
            cost.seed, cost.energy = sum(times) / len(lengths), float(np.mean(energies or [1.0]))
            cost.columns = sum(u.shape[1] for u, _ in exact) / len(lengths)
            if exact:
                self._compare(index, inverse, exact[0], min(probe_tokens, self._n))

    def _compare(self, index: int, inverse: Inverse, form: tuple[torch.Tensor, torch.Tensor], n: int) -> None:
        """Measure factored and exact scores of one seed with `n` tokens of probe rows."""
        if n == 0:
            return
        cost, layer = self.costs[index], self._model.layers[index]
        seen = next(((a, d) for i, a, d, _ in self._captured.layers if i == index), None)
        if seen is None:
            return  # an expert that the batch does not go to
        own = -(-n * len(seen[0]) // self._n)  # of n tokens an expert sees its share
        a = with_ones(seen[0][:own].to(form[1].dtype), layer.width)
        d = seen[1][:own].to(form[0].dtype)
        cost.coordinates = self._time(lambda: inverse.coordinates(a, d)) / n
        w = form[0] @ form[1].T
        rows = Segments(torch.tensor([0, own]))
        columns = Segments(torch.tensor([0, form[0].shape[1]]))
        out = torch.zeros(1, 1, dtype=a.dtype, device=a.device)

        def compared() -> None:
            ops.score(a, d, rows, *form, columns, out)
            ops.score_dense(a, d, rows, w[None], out)
            if inverse.separable:
                inverse.solve(a, d)

        cost.compared = self._time(compared) / n

    def sketches(self) -> None:
        """Measure the sketch of each layer."""
        factors = self._factors if self._config.in_fisher_space else None
        dtype = sum_dtype(self._model)
        with_all = Sketchers(self._model, self._config, dtype, factors)  # type: ignore[arg-type]
        if factors is not None:
            seconds = self._watch.seconds(lambda: Sketchers(self._model, self._config, dtype, factors))  # type: ignore[arg-type]
            work = [layer.width**2 + layer.out_features**2 for layer in self._model.layers]
            for cost, share in zip(self.costs, work, strict=True):
                cost.whiten = seconds * share / sum(work)
        lines = len(self._captured.batch.rows)
        for timed in (False, True):  # the first call lays out the projections
            add = with_all.begin()
            for indices, a, d, places in self._captured.calls:
                out = torch.zeros(lines, self._config.projection_dim, dtype=dtype, device=a.device)
                begun = self._watch.now()
                if isinstance(places, ExpertPlaces):
                    with_all.add_experts(indices, a, d, places.rows, out)
                else:
                    add(indices[0], a, d, places.examples, out)
                if timed:
                    self._share("sketch", indices, self._watch.now() - begun)

    def scores(self, n_seeds: int, ways: Mapping[Kind, Sequence[Dense]], token_batch_size: int) -> None:
        """Measure the scores of all seeds, in each way that the layers of a kind have, in a batch of the sweep."""
        copies = max(1, round(token_batch_size / self._n))  # W is read once a batch, so its size counts
        dtype = sum_dtype(self._model)
        for indices, a, d, places in self._captured.calls:
            if not any(self._forms[index] for index in indices):
                continue  # no seed of the trial goes to these experts
            layer, costs = self._model.layers[indices[0]], [self.costs[index] for index in indices]
            a, d, rows = _repeated_rows(a, d, places, copies)
            lines, w_bytes = copies * len(self._captured.batch.rows), layer.out_features * layer.width * 4
            for way in ways[kind_of(layer)]:
                most = _TRIAL_SEEDS if way in COLUMNS else max(1, min(_TRIAL_SEEDS, _DENSE_BYTES // w_bytes))
                n = min(n_seeds, most)
                factors = [_repeated(self._forms[index], n, layer, dtype) for index in indices]
                begun = self._watch.now()
                scorers = [Scorer(own, way) for own in factors]
                made = (self._watch.now() - begun) * n_seeds / n / len(indices)
                out = torch.zeros(lines, n, dtype=dtype, device=a.device)
                scorer = scorers[0] if isinstance(rows, Segments) else ExpertScorer(scorers)
                seconds = self._time(lambda: scorer.add(a, d, rows, out))  # type: ignore[arg-type]  # noqa: B023
                # Of the dense way, the gradients of the rows cost the same for any number of seeds.
                fixed = len(a) if way not in COLUMNS else 0
                growth = (fixed + n_seeds * lines) / (fixed + n * lines)
                for cost in costs:
                    cost.dense[way] = made
                    cost.scores[way] = seconds * growth / (copies * self._n) / len(indices)

    def checkpoint(self) -> None:
        """Measure Adam's directions, with moments of ones."""
        from gdig.data.tokens import Example
        from gdig.passes.adam_pass import AdamFeatures
        from gdig.passes.adam_seeds import pass_seeds
        from gdig.passes.gradient_projections import GradientProjections

        ids = np.arange(1, 5, dtype=np.int32)
        moments = [
            Moments(*(torch.ones(layer.out_features, layer.width, device=layer.device),) * 2, 1, (0.9, 0.999), 1e-8)
            for layer in self._model.layers
        ]
        projections = GradientProjections(self._model, self._config)
        seeds = pass_seeds(self._model, projections, [Example(ids, ids)], self._config)
        features = AdamFeatures(self._model, moments, projections, seeds)
        dtype, lines = sum_dtype(self._model), len(self._captured.batch.rows)
        for index, a, d, places in self._captured.layers:
            sums = torch.zeros(lines, features.width, dtype=dtype, device=a.device)
            sketch = torch.zeros(lines, self._config.projection_dim, dtype=dtype, device=a.device)
            add, _ = features.begin()
            once = self._time(lambda: add(index, a, d, places, sums, sketch))  # noqa: B023
            self.costs[index].checkpoint = once / self._n

    def by_kind(self) -> dict[Kind, LayerCost]:
        """The mean cost of the layers of each kind."""
        groups: dict[Kind, list[LayerCost]] = {}
        for layer, cost in zip(self._model.layers, self.costs, strict=True):
            groups.setdefault(kind_of(layer), []).append(cost)
        return {kind: _mean(costs) for kind, costs in groups.items()}

    def _give(
        self, sinks: tuple[Sink, ExpertsSink], indices: Sequence[int], a: torch.Tensor, d: torch.Tensor,
        places: Places | ExpertPlaces,
    ) -> None:  # fmt: skip
        """Give a call of the pass to the sink that gets it in a run."""
        if isinstance(places, ExpertPlaces):
            sinks[1](indices, a, d, places)
        else:
            sinks[0](indices[0], a, d, places)

    def _share(self, name: str, indices: Sequence[int], seconds: float) -> None:
        """Note the seconds of a call for the tokens of the batch, in equal parts for its layers."""
        for index in indices:
            setattr(self.costs[index], name, seconds / len(indices) / self._n)

    def _time(self, work: Callable[[], object]) -> float:
        with float32_products(self._config.matmul_precision):
            return self._watch.seconds(work)

    def _basis(
        self, bands: list[torch.Tensor], count: int, device: torch.device, name: str
    ) -> tuple[float, tuple[torch.Tensor, torch.Tensor]]:
        """The seconds of an eigendecomposition, and its result. A wide factor has the unit vectors instead."""
        begun = self._watch.now()
        x = mean_matrix([band.clone() for band in bands], count, device)
        n, widest = len(x), _WIDEST.get(device.type, _WIDEST["cpu"])
        if n <= widest:
            result = eigenbasis(x, name)
            return self._watch.now() - begun, result
        eigenbasis(x[:widest, :widest], name)
        seconds = (self._watch.now() - begun) * (n / widest) ** 3
        return seconds, (torch.eye(n, dtype=x.dtype, device=device), x.diagonal().double().clamp(min=0))


def _mean(costs: Sequence[LayerCost]) -> LayerCost:
    """The mean of each cost. Layers of one kind score in the same ways."""
    mean = LayerCost()
    for name, value in vars(mean).items():
        if isinstance(value, dict):
            ways = {way for cost in costs for way in getattr(cost, name)}
            setattr(mean, name, {way: fmean(getattr(cost, name).get(way, 0.0) for cost in costs) for way in ways})
        else:
            setattr(mean, name, fmean(getattr(cost, name) for cost in costs))
    return mean


def _repeated(
    forms: Sequence[tuple[torch.Tensor, torch.Tensor]], n_seeds: int, layer: Layer, dtype: torch.dtype
) -> SeedFactors:
    """The factors of a few seeds, repeated until they are those of `n_seeds` seeds. None: no seed has columns."""
    chosen = [forms[seed % len(forms)] for seed in range(n_seeds)] if forms else []
    offsets = torch.tensor([0] + [u.shape[1] for u, _ in chosen] + [0] * (n_seeds - len(chosen))).cumsum(0)
    u, v = (
        torch.cat([form[side] for form in chosen] or [torch.zeros(height, 0, dtype=dtype, device=layer.device)], dim=1)
        for side, height in enumerate((layer.out_features, layer.width))
    )
    return SeedFactors(u.contiguous(), v.contiguous(), offsets, np.full(n_seeds, 0.99))


def _repeated_rows(
    a: torch.Tensor, d: torch.Tensor, places: Places | ExpertPlaces, copies: int
) -> tuple[torch.Tensor, torch.Tensor, Segments | ExpertRows]:
    """The rows of a batch several times, and whose they are, as if the batch had as many copies of its examples."""
    if isinstance(places, Places):
        lengths = places.examples.lengths.repeat(copies)
        return a.repeat(copies, 1), d.repeat(copies, 1), Segments(_ends(lengths))
    order = torch.cat([torch.arange(i, j).repeat(copies) for i, j in pairwise(places.rows.bounds)])
    ends = _ends(places.rows.offsets.diff().repeat(1, copies).flatten())
    # The first row of an expert follows the last row of the one before, so a line begins where the last one ended.
    lines = ends[1:].view(len(places.rows), -1)
    rows = ExpertRows(torch.cat([ends[:-1].view_as(lines)[:, :1], lines], dim=1))
    order = order.to(a.device)
    return a.index_select(0, order), d.index_select(0, order), rows


def _ends(lengths: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
