"""The sums that the curvature is made of: where they lie, and the sinks that add a batch to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch

from gdig import ops
from gdig.influence.rotations import rotate, rotate_experts
from gdig.model.capture import ExpertsSink, Sink, split_experts
from gdig.model.causal_model import Model
from gdig.model.layers import Layer
from gdig.model.places import ExpertPlaces, Places

Pair = tuple[torch.Tensor, torch.Tensor]
"""A matrix [J, J] of a layer's inputs and a matrix [O, O] of its output gradients."""
Triangles = list[tuple[list[torch.Tensor], list[torch.Tensor]]]
"""For each layer the sums of A and of S: the upper triangle in bands on the CPU (`ops.triangle`), where the totals lie
in the same memory; the whole matrix as one band elsewhere."""
Totals = dict[tuple[int, int], list[torch.Tensor | None]]
"""Totals of A by (layer, 0) and of S by (layer, 1), on the CPU, in the bands of the sums; None where another rank owns
them."""


def with_ones(a: torch.Tensor, width: int, ones: torch.Tensor | None = None) -> torch.Tensor:
    """Append the constant input of the bias to a [T, I], if the layer's gradient has `width` = I + 1 columns."""
    if a.shape[1] == width:
        return a
    ones = torch.ones(len(a), dtype=a.dtype, device=a.device) if ones is None else ones
    return torch.cat([a, ones[:, None]], dim=1)


def zero_triangles(model: Model, layers: Sequence[Layer]) -> Triangles:
    """Sums of A and S for each layer. Layers that read the same input share those of A."""
    dtype = torch.promote_types(model.dtype, torch.float32)

    def zeros(width: int, device: torch.device) -> list[torch.Tensor]:
        if device.type == "cpu":
            return ops.triangle(width, dtype, device)
        return [torch.zeros(width, width, dtype=dtype, device=device)]

    inputs: dict[str, list[torch.Tensor]] = {}
    sums = []
    for layer in layers:
        if layer.input_name not in inputs:
            inputs[layer.input_name] = zeros(layer.width, layer.device)
        sums.append((inputs[layer.input_name], zeros(layer.out_features, layer.device)))
    return sums


def totals_needed(layers: Sequence[Layer], owners: Sequence[int]) -> list[tuple[int, int]]:
    """The sums whose totals have an owner: (layer, 0) for A and (layer, 1) for S.

    Of layers with one input and one owner, the first alone has A. Its total serves the others.
    """
    places, inputs = [], set()
    for number, (layer, owner) in enumerate(zip(layers, owners, strict=True)):
        if (layer.input_name, owner) not in inputs:
            inputs.add((layer.input_name, owner))
            places.append((number, 0))
        places.append((number, 1))
    return places


def mean_matrix(bands: list[torch.Tensor | None], divisor: float, device: torch.device) -> torch.Tensor:
    """The matrix of a total's bands, divided by a count of tokens or examples."""
    return ops.from_triangle([band for band in bands if band is not None]).div_(divisor).to(device)


def moments_sink(
    layers: Sequence[Layer],
    sums: Triangles,
    reduce: bool,
    added: set[tuple[int, str]],
    counts: Mapping[int, torch.Tensor] | None = None,
) -> tuple[Sink, ExpertsSink]:
    """Make sinks that add to the sums, and note each (layer, side) in `added`. They skip the noted ones.

    `counts`: of layers of experts, float64 [2]: their tokens, and the examples that have some. Changed.
    """

    def sink(index: int, a: torch.Tensor, d: torch.Tensor, places: Places) -> None:
        sum_a, sum_s = sums[index]
        reads_first = layers[index].input_name == layers[index].name
        dtype, width = sum_a[0].dtype, layers[index].width
        mask = places.mask.to(dtype)
        if counts is not None and index in counts and (index, "count") not in added:
            by_line = places.sums(places.mask.double()[:, None])
            counts[index].add_(torch.stack([by_line.sum(), (by_line > 0).sum().double()]))
            added.add((index, "count"))
        if reduce:
            if reads_first:
                a = places.sums(with_ones(a.to(dtype) * mask[:, None], width, mask))
            d = places.sums(d.to(dtype))
            mask = torch.ones(len(d), dtype=dtype, device=d.device)
        for side, x, bands in (("a", a, sum_a), ("s", d, sum_s)):
            if (index, side) not in added and (side == "s" or reads_first):
                if bands[0].device.type == "cpu":
                    ops.covariance_bands(x, mask, bands)
                else:
                    ops.covariance(x, mask, bands[0])
                added.add((index, side))

    def experts_sink(indices: Sequence[int], a: torch.Tensor, d: torch.Tensor, places: ExpertPlaces) -> None:
        if reduce:
            split_experts(sink)(indices, a, d, places)
            return
        first = indices[0]
        mask = places.mask.to(sums[first][0][0].dtype)
        if counts is not None and (first, "count") not in added:
            for index, counted in zip(indices, _count(places), strict=True):
                counts[index].add_(counted)
            added.add((first, "count"))
        for place, (side, x) in enumerate((("a", a), ("s", d))):
            if (first, side) in added:
                continue
            own = [sums[index][place] for index in indices]
            if own[0][0].device.type == "cpu":
                for bands, (i, j) in zip(own, pairwise(places.rows.bounds), strict=True):
                    if i < j:
                        ops.covariance_bands(x[i:j], mask[i:j], bands)
            else:
                ops.covariance_experts(x, mask, places.rows, [bands[0] for bands in own])
            added.add((first, side))

    return sink, experts_sink


def _count(places: ExpertPlaces) -> torch.Tensor:
    """The tokens of each expert that count, and the examples that have some: float64 [E, 2]."""
    ends = places.mask.double().cumsum(0)
    ends = torch.cat([ends.new_zeros(1), ends])[places.rows.on(ends.device)]  # [E, B + 1], sums of zeros and ones
    by_example = ends.diff()
    return torch.stack([by_example.sum(1), (by_example > 0).sum(1).double()], dim=1)


def squares_sink(
    layers: Sequence[Layer], bases: Sequence[Pair | None], squares: Sequence[torch.Tensor | None], added: set[int],
    bfloat16: bool,
) -> tuple[Sink, ExpertsSink]:  # fmt: skip
    """Make sinks that add the squares in the eigenbases (q_a, q_s), and note each layer in `added`.

    A layer without a basis is left out. `bfloat16`: as for `rotate`.
    """
    readers = Counter(layer.input_name for layer in layers)
    rotated: dict[str, torch.Tensor] = {}  # inputs that a later layer reads too

    def sink(index: int, a: torch.Tensor, d: torch.Tensor, places: Places) -> None:
        basis, total, name = bases[index], squares[index], layers[index].input_name
        if basis is None or total is None:
            return
        q_a, q_s = basis
        readers[name] -= 1
        x = rotated.pop(name, None)
        if x is None:
            x = rotate(with_ones(a, len(q_a), places.mask.to(a.dtype)), q_a, bfloat16)
        if readers[name]:
            rotated[name] = x
        if index in added:
            return
        ops.squared_gradients(x, rotate(d, q_s, bfloat16), places.examples, total)
        added.add(index)

    def experts_sink(indices: Sequence[int], a: torch.Tensor, d: torch.Tensor, places: ExpertPlaces) -> None:
        pairs = [bases[index] for index in indices]
        totals = [None if bases[index] is None else squares[index] for index in indices]
        width = next((len(pair[0]) for pair in pairs if pair is not None), 0)
        if not width or indices[0] in added:
            return
        x = rotate_experts(
            with_ones(a, width, places.mask.to(a.dtype)), [pair and pair[0] for pair in pairs], places.rows, bfloat16
        )
        y = rotate_experts(d, [pair and pair[1] for pair in pairs], places.rows, bfloat16)
        ops.squared_gradients_experts(x, y, places.rows, totals)
        added.update(indices)

    return sink, experts_sink
