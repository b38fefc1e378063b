"""One layer's scores: the seeds' factors on the device, and the cheaper of two ways to use them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from gdig import ops
from gdig.influence.seed_factors import SeedFactors
from gdig.ops import Segments

DENSE_BYTES = 1 << 30
"""Most memory that the seeds' gradients of all layers may take when they are multiplied out."""


class Scorer:
    """Adds a layer's influence of each example on each seed.

    With factors U [O, C], V [J, C] a token costs 2 C (O + J) operations. Multiplied out, W [O, J, S] costs 2 O J (T +
    S) an example of T tokens, by way of the example's own gradient: less for narrow layers with many columns. Which
    one runs depends on the shape of the batch alone.

    Args:
        factors: the layer's.
        dense: keep W too.
    """

    def __init__(self, factors: SeedFactors, dense: bool) -> None:
        self.u, self.v = factors.u, factors.v
        self.columns = Segments(factors.column_offsets)
        self.w = _multiplied_out(factors, self.columns) if dense else None
        # Laid out for the kernel by the dtype of the activations, which LoRA matrices may have their own of.
        self._prepared: dict[torch.dtype, Any] = {}

    def add(self, a: torch.Tensor, d: torch.Tensor, examples: Segments, out: torch.Tensor) -> None:
        """Add to out [B, S]; a [T, I], d [T, O]."""
        if self.w is not None and _dense_work(self.u, self.v, self.columns, examples) < _factored_work(
            self.u, self.v, examples
        ):
            ops.score_dense(a, d, examples, self.w, out)
            return
        if a.dtype not in self._prepared:
            self._prepared[a.dtype] = ops.prepare_factors(self.u, self.v, self.columns, a.shape[1], a.dtype)
        ops.score(a, d, examples, self.u, self.v, self.columns, out, prepared=self._prepared[a.dtype])


def make_scorers(factors: Sequence[SeedFactors]) -> list[Scorer]:
    """A scorer for each layer; those whose W is worth its memory keep it, up to `DENSE_BYTES` together."""
    left, scorers = DENSE_BYTES, []
    for f in factors:
        size = f.u.shape[0] * f.v.shape[0] * (len(f.column_offsets) - 1) * f.u.element_size()
        # No length of example makes it cheaper when a token alone costs as much: O J against C (O + J).
        dense = size <= left and f.u.shape[0] * f.v.shape[0] < f.u.shape[1] * (f.u.shape[0] + f.v.shape[0])
        left -= size if dense else 0
        scorers.append(Scorer(f, dense))
    return scorers


def _dense_work(u: torch.Tensor, v: torch.Tensor, seeds: Segments, examples: Segments) -> int:
    return len(u) * len(v) * (examples.end + len(seeds) * len(examples))


def _factored_work(u: torch.Tensor, v: torch.Tensor, examples: Segments) -> int:
    return u.shape[1] * (len(u) + len(v)) * examples.end


def _multiplied_out(factors: SeedFactors, columns: Segments) -> torch.Tensor:
    """W [O, J, S] with W[:, :, s] = U_s V_s^T."""
    w = torch.empty(len(factors.u), len(factors.v), len(columns), dtype=factors.u.dtype, device=factors.u.device)
    for seed, (i, j) in enumerate(zip(columns.bounds, columns.bounds[1:], strict=False)):
        w[:, :, seed] = factors.u[:, i:j] @ factors.v[:, i:j].T
    return w
