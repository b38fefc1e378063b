"""The hidden-state sketch: what RDS+ (arXiv 2503.01807) and CRDS-R (arXiv 2602.13773) compare rows by."""

from __future__ import annotations

import math

import numpy as np
import torch

from gdig.model.batches import Batch
from gdig.model.device import to_device
from gdig.model.precision import float32_products
from gdig.philox import rademacher, stream_key

_ENTRIES = 1 << 24
"""Entries of hidden states that are widened to float32 at once."""


class HiddenSketch:
    """Makes a vector of unit length from the hidden states of a row.

    For one layer with states h_1 .. h_T over all tokens of prompt and target, e = sum_t t h_t / sum_t t, and the row's
    vector is R e at unit length. R [dim, H] has entries +-1 (Rademacher). States of at most dim columns are not
    projected: e itself, and zeros behind it. With several layers, each has dim // layers columns and an R of its own;
    the cosine of two rows is then the mean of the layers' cosines.

    Args:
        layers: how many layers, from the last one down.
        dim: columns of the result, at least `layers`.
        random_seed: the option projection_seed.
    """

    def __init__(self, layers: int, dim: int, random_seed: int) -> None:
        self._columns, self._dim, self._random_seed = dim // layers, dim, random_seed
        self._signs: dict[tuple[int, int, torch.device], torch.Tensor] = {}

    @torch.no_grad()
    def of(self, states: tuple[torch.Tensor, ...], batch: Batch) -> torch.Tensor:
        """Return the vectors of a batch, [B, dim]; zeros for a row whose states add up to 0.

        Args:
            states: [B, L, H] of each layer, the last layer last.
            batch: whose lengths say which positions are pads.
        """
        lines = len(batch.rows)
        dtype = torch.promote_types(states[-1].dtype, torch.float32)
        out = torch.zeros(lines, self._dim, dtype=dtype, device=states[-1].device)
        with float32_products("highest"):
            for depth, state in enumerate(reversed(states)):
                mean = _unit(_weighted_mean(state, batch.lengths, dtype))
                vector = _unit(self._project(mean, depth)).to(out.device) / math.sqrt(len(states))
                start = depth * self._columns
                out[:, start : start + vector.shape[1]] = vector
        return out

    def _project(self, mean: torch.Tensor, depth: int) -> torch.Tensor:
        width = mean.shape[1]
        if width <= self._columns:
            return mean
        key = (depth, width, mean.device)
        if key not in self._signs:
            signs = rademacher(stream_key("hidden states", depth, self._random_seed), self._columns, width)
            self._signs[key] = torch.from_numpy(signs).to(mean.device, mean.dtype).T
        return mean @ self._signs[key]


def _weighted_mean(state: torch.Tensor, lengths: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    """sum_t t h_t / sum_t t over t = 1 .. T of each line, [B, H], of states [B, L, H]; a pad has the weight 0."""
    places = np.arange(1, state.shape[1] + 1)
    weights = np.where(places <= lengths[:, None], places, 0)
    w = to_device(weights / weights.sum(1, keepdims=True), state.device).to(dtype)
    step = max(1, _ENTRIES // (state.shape[1] * state.shape[2]))
    blocks = [
        torch.bmm(w[start : start + step, None], state[start : start + step].to(dtype))[:, 0]
        for start in range(0, len(state), step)
    ]
    return torch.cat(blocks)


def _unit(x: torch.Tensor) -> torch.Tensor:
    """Rows at unit length; a row of zeros stays."""
    lengths = x.norm(dim=1, keepdim=True)
    return x / torch.where(lengths == 0, 1.0, lengths)
