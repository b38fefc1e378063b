"""The scores of one layer: the seeds' factors on the device, and the cheaper of two ways to use the factors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from gdig import ops
from gdig.influence.seed_factors import SeedFactors
from gdig.ops import Segments

DENSE_BYTES = 1 << 30
"""Most memory for the dense gradients W of the seeds, over all layers."""


class Scorer:
    """Adds the influence of each example on each seed in one layer.

    Factors U [O, C], V [J, C] cost 2 C (O + J) operations a token. The dense product W [O, J, S] costs 2 O J (T + S)
    operations an example of T tokens, because it needs the gradient of the example. W is cheaper for narrow layers with
    many columns. The shape of the batch alone decides between the two.

    Args:
        factors: the seeds' factors in the layer.
        dense: compute W too.
    """

    def __init__(self, factors: SeedFactors, dense: bool) -> None:
        self.u, self.v = factors.u, factors.v
        self.columns = Segments(factors.column_offsets)
        self.w = _dense_gradients(factors, self.columns) if dense else None
        # The kernel's layout of the factors, by the dtype of the activations. LoRA matrices can have their own dtype.
        self._prepared: dict[torch.dtype, Any] = {}

    def add(self, a: torch.Tensor, d: torch.Tensor, examples: Segments, out: torch.Tensor) -> None:
        """Add the influence of a batch.

        Args:
            a: [T, I], the inputs of the layer.
            d: [T, O], its output gradients.
            examples: the B examples of the T tokens.
            out: [B, S], changed.
        """
        if self.w is not None and _dense_work(self.u, self.v, self.columns, examples) < _factored_work(
            self.u, self.v, examples
        ):
            ops.score_dense(a, d, examples, self.w, out)
            return
        if a.dtype not in self._prepared:
            self._prepared[a.dtype] = ops.prepare_factors(self.u, self.v, self.columns, a.shape[1], a.dtype)
        ops.score(a, d, examples, self.u, self.v, self.columns, out, prepared=self._prepared[a.dtype])


def make_scorers(factors: Sequence[SeedFactors]) -> list[Scorer]:
    """Make a scorer for each layer. Layers where W can be cheaper compute W, as long as `DENSE_BYTES` last."""
    free_bytes, scorers = DENSE_BYTES, []
    for f in factors:
        size = f.u.shape[0] * f.v.shape[0] * (len(f.column_offsets) - 1) * f.u.element_size()
        # If a token alone costs as much, W is cheaper for no length of example: O J against C (O + J).
        dense = size <= free_bytes and f.u.shape[0] * f.v.shape[0] < f.u.shape[1] * (f.u.shape[0] + f.v.shape[0])
        free_bytes -= size if dense else 0
        scorers.append(Scorer(f, dense))
    return scorers


def _dense_work(u: torch.Tensor, v: torch.Tensor, seeds: Segments, examples: Segments) -> int:
    return len(u) * len(v) * (examples.end + len(seeds) * len(examples))


def _factored_work(u: torch.Tensor, v: torch.Tensor, examples: Segments) -> int:
    return u.shape[1] * (len(u) + len(v)) * examples.end


def _dense_gradients(factors: SeedFactors, columns: Segments) -> torch.Tensor:
    """Return W [O, J, S] with W[:, :, s] = U_s V_s^T."""
    w = torch.empty(len(factors.u), len(factors.v), len(columns), dtype=factors.u.dtype, device=factors.u.device)
    for seed, (i, j) in enumerate(zip(columns.bounds, columns.bounds[1:], strict=False)):
        w[:, :, seed] = factors.u[:, i:j] @ factors.v[:, i:j].T
    return w
