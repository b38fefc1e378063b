"""The sketch: random projections, and their use in a pass.

The names of the layers and a random seed decide the projections, so they are the same on every device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from gdig import ops
from gdig.config.config import Config
from gdig.influence.factors import Factors
from gdig.model.causal_model import Model
from gdig.model.layers import Layer
from gdig.ops import ExpertRows, Segments
from gdig.passes.whitening import inverse_roots
from gdig.philox import rademacher, sparse_map, stream_key


@dataclass(frozen=True)
class Projection:
    """The sketch of one layer: R vec(P G Q^T), with a sparse map R.

    E<sketch(G), sketch(H)> = <G, H> over the random seeds. R has the scale, so that P and Q are exact in any format.

    Attributes:
        p: P [side, O], with entries +-1.
        q: Q [side, J], with entries +-1.
        columns: int64 [side * side], the column of the sketch for each entry of P G Q^T.
        weights: [side * side], +-1/side, the factor of each entry of P G Q^T.
    """

    p: torch.Tensor
    q: torch.Tensor
    columns: torch.Tensor
    weights: torch.Tensor


def make_projection(
    layer: Layer, side: int, dim: int, random_seed: int, dtype: torch.dtype, device: torch.device
) -> Projection:
    """Make the projection of a layer from its name and `random_seed`. Layers that read the same input have the same Q.

    Args:
        layer: the layer, whose names identify the streams of random numbers.
        side: the number of rows of P and Q.
        dim: the number of columns of the sketch.
        random_seed: the option projection_seed.
        dtype: the dtype of the result, that of the sums.
        device: the device of the result.
    """

    def to(x: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(x)).to(device)

    p = rademacher(stream_key(layer.name, "output", random_seed), side, layer.out_features)
    q = rademacher(stream_key(layer.input_name, "input", random_seed), side, layer.width)
    columns, signs = sparse_map(stream_key(layer.name, "columns", random_seed), side * side, dim)
    return Projection(to(p).to(dtype), to(q).to(dtype), to(columns), to(signs).to(dtype) / side)


def whiten(projection: Projection, layer: Layer, factors: Factors, config: Config) -> Projection:
    """Return the projection that sketches H^-1/2 G instead of G, at the same cost (see gdig.passes.whitening).

    E<sketch(G), sketch(G')> = <G, H^-1 G'> for a separable H (factored_tikhonov). For other H, this holds up to the
    variation of L within a block of eigendirections.
    """
    roots = inverse_roots(factors, config, config.projection_side)
    if roots.block is None:
        return replace(projection, p=projection.p @ roots.s, q=projection.q @ roots.a)
    projection_seed, dtype, device = config.projection_seed, projection.p.dtype, projection.p.device
    p, q = (
        _folded(root, config.projection_side, stream_key(name, side, projection_seed)).to(device=device, dtype=dtype)
        for root, name, side in ((roots.s, layer.name, "output"), (roots.a, layer.input_name, "input"))
    )
    signs = projection.weights.sign()
    return replace(projection, p=p, q=q, weights=signs * roots.block.flatten().to(device=device, dtype=dtype))


def _folded(root: torch.Tensor, side: int, key: int) -> torch.Tensor:
    """Add the rows of root [W, W] with random signs in `side` groups of neighbours: [side, W]."""
    width = len(root)
    signs = torch.from_numpy(rademacher(key, 1, width)[0]).to(root)
    out = torch.zeros(side, width, dtype=root.dtype, device=root.device)
    return out.index_add_(0, torch.arange(width, device=root.device) * side // width, root * signs[:, None])


class Sketchers:
    """The projections of all layers of a model. An input that several layers read is projected once.

    Args:
        model: the model.
        config: options of the sketch.
        dtype: the dtype of the sums.
        factors: the curvature of each layer; sketch_space "fisher" needs it, and "auto" is raw without it.
    """

    def __init__(
        self, model: Model, config: Config, dtype: torch.dtype, factors: Iterable[Factors] | None = None
    ) -> None:
        c = config
        self._projections = [
            make_projection(layer, c.projection_side, c.projection_dim, c.projection_seed, dtype, layer.device)
            for layer in model.layers
        ]
        if c.sketch_space == "fisher" or (c.sketch_space == "auto" and factors is not None):
            if factors is None:
                raise ValueError("sketch_space=fisher: expected the factors of the curvature, got None; give factors")
            self._projections = [
                whiten(projection, layer, f, c)
                for projection, layer, f in zip(self._projections, model.layers, factors, strict=True)
            ]
        self._inputs = [layer.input_name for layer in model.layers]
        self._readers = Counter(self._inputs)
        self._dtype = dtype
        self._dim = c.projection_dim
        self._prepared: dict[tuple[int, torch.dtype], Any] = {}
        self._prepared_experts: dict[tuple[int, torch.dtype], Any] = {}

    def _prepare(self, index: int, a: torch.Tensor) -> Any:
        """Return the projections of a layer in the kernel's layout for the dtype of the activations."""
        key = (index, a.dtype)
        if key not in self._prepared:
            p = self._projections[index]
            self._prepared[key] = ops.prepare_projection(p.q, p.p, p.columns, p.weights, a.shape[1], self._dim, a.dtype)
        return self._prepared[key]

    def add_experts(
        self, indices: Sequence[int], a: torch.Tensor, d: torch.Tensor, rows: ExpertRows, out: torch.Tensor
    ) -> None:
        """Add the layers of a matrix of experts, a [R, I] and d [R, O], to a batch's sketch [B, dim]."""
        projections = [(p.q, p.p, p.columns, p.weights) for p in (self._projections[index] for index in indices)]
        key = (indices[0], a.dtype)
        if key not in self._prepared_experts:
            self._prepared_experts[key] = ops.prepare_expert_projections(projections, a.shape[1], self._dim, a.dtype)
        ops.project_experts(a, d, rows, projections, out, prepared=self._prepared_experts[key])

    def begin(self) -> Callable[[int, torch.Tensor, torch.Tensor, Segments, torch.Tensor], None]:
        """Return f(index, a [T, I], d [T, O], examples, out [B, dim]), which adds a layer to a batch's sketch."""
        projected: dict[str, torch.Tensor] = {}
        waiting = Counter(self._readers)

        def add(index: int, a: torch.Tensor, d: torch.Tensor, examples: Segments, out: torch.Tensor) -> None:
            p, name = self._projections[index], self._inputs[index]
            prepared = self._prepare(index, a)
            if self._readers[name] == 1:
                ops.project(a, d, examples, p.q, p.p, p.columns, p.weights, out, prepared=prepared)
                return
            if name not in projected:
                projected[name] = ops.project_inputs(a, p.q, dtype=self._dtype, prepared=prepared)
            waiting[name] -= 1
            inputs = projected[name] if waiting[name] else projected.pop(name)
            ops.project(inputs, d, examples, None, p.p, p.columns, p.weights, out, prepared=prepared)

        return add
