"""The random projections of the sketch: made from names and a seed, the same on every device."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from gdig.model.layers import Layer
from gdig.random import rademacher, sparse_map, stream_key


@dataclass(frozen=True)
class Projection:
    """One layer's sketch: R vec(P G Q^T).

    p [side, O] and q [side, J] have entries +-1/sqrt(side); columns int64 and signs, both [side * side], are the sparse
    map R. E<sketch(G), sketch(H)> = <G, H> over the seeds.
    """

    p: torch.Tensor
    q: torch.Tensor
    columns: torch.Tensor
    signs: torch.Tensor


def make_projection(
    layer: Layer, side: int, dim: int, seed: int, dtype: torch.dtype, device: torch.device
) -> Projection:
    """Make the projection of a layer from its name and `seed`.

    Args:
        layer: names the streams of random numbers.
        side: rows of P and Q. dim: columns of the sketch. seed: projection_seed.
        dtype: of the result, the dtype of the sums. device: where to put it.
    """

    def to(x: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(x)).to(device)

    scale = 1.0 / math.sqrt(side)
    p = rademacher(stream_key(layer.name, "output", seed), side, layer.out_features)
    q = rademacher(stream_key(layer.name, "input", seed), side, layer.width)
    columns, signs = sparse_map(stream_key(layer.name, "columns", seed), side * side, dim)
    return Projection(to(p).to(dtype) * scale, to(q).to(dtype) * scale, to(columns), to(signs).to(dtype))
