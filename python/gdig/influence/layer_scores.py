"""The scores of one layer: the seeds' factors on the device, and the cheaper of two ways to use the factors.

For B examples with T tokens in all, S seeds and C columns, the two ways take

    by columns:  C (O + J) T         (d_t U) and (a_t V) for each token
    dense:       O J (T + S (B + R)) the gradient of each example, its products with W [S, O, J], and reading W

multiplications. R is the cost of reading W once for a batch, in examples: W does not fit the caches. Measured on one
core of an AMD EPYC (AVX2, 67 GFLOP/s), 1536 x 576, 64 seeds: R = 25, and 36 with W in float16 (LOG.md). Both ways then
run at the same speed. By these formulas, and so by shapes and stored numbers alone, each batch takes the cheaper way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch

from gdig import ops
from gdig.influence.seed_factors import SeedFactors
from gdig.ops import Segments

DENSE_BYTES = 2 << 30
"""Most memory for the dense gradients W of the seeds, over all layers, on a CPU. It leaves 2 GiB of 4 for a small
model and its batches."""
_PLAN_SHARE = 0.4
"""Most of the memory that a plan may take which goes to W: a quarter of the free memory."""
_READING = {"full": 25, "half": 36}
"""R: the cost of reading W once, in examples."""
_ROUNDING = 2.0**-22
"""The square of float16's largest relative error."""

Dense = Literal["none", "full", "half"]
"""Whether a layer has W, and whether in the dtype of the factors or in float16."""


class Scorer:
    """Adds the influence of each example on each seed in one layer.

    Args:
        factors: the seeds' factors in the layer.
        dense: whether to compute W too, and in which precision.
    """

    def __init__(self, factors: SeedFactors, dense: Dense) -> None:
        self.u, self.v = factors.u, factors.v
        self.columns = Segments(factors.column_offsets)
        self.dense = dense
        self.w: torch.Tensor | None = None  # [S, O, J]
        self.scale: torch.Tensor | None = None  # [S], of W in float16
        if dense != "none":
            self.w, self.scale = _dense_gradients(factors, self.columns, dense == "half")
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
        if self.w is not None and self._dense_work(examples) < self._column_work(examples):
            ops.score_dense(a, d, examples, self.w, out, scale=self.scale)
            return
        if a.dtype not in self._prepared:
            self._prepared[a.dtype] = ops.prepare_factors(self.u, self.v, self.columns, a.shape[1], a.dtype)
        ops.score(a, d, examples, self.u, self.v, self.columns, out, prepared=self._prepared[a.dtype])

    def _dense_work(self, examples: Segments) -> int:
        rows = len(examples) + _READING[self.dense]
        return len(self.u) * len(self.v) * (examples.end + len(self.columns) * rows)

    def _column_work(self, examples: Segments) -> int:
        return self.u.shape[1] * (len(self.u) + len(self.v)) * examples.end


def make_scorers(factors: Sequence[SeedFactors], dense_bytes: int = DENSE_BYTES) -> list[Scorer]:
    """Make a scorer for each layer.

    Args:
        factors: the seeds' factors in each layer.
        dense_bytes: the most memory for W over all layers. Scores depend on it by rounding, so a run records the
            memory that the plan takes.
    """
    return [Scorer(f, dense) for f, dense in zip(factors, plan_dense(factors, dense_bytes), strict=True)]


def plan_dense(factors: Sequence[SeedFactors], dense_bytes: int) -> list[Dense]:
    """Choose the layers that compute W, from shapes and energies alone.

    W pays in layers with C (O + J) > O J; in others, a token alone costs as much. If these layers do not fit
    `dense_bytes`, W is float16 where that adds less than a hundredth to the squared error of the low-rank form, and the
    layers that W helps most come first.

    Args:
        factors: the seeds' factors in each layer.
        dense_bytes: the most memory for W over all layers.
    """
    sizes = [_size(f, "full") for f in factors]
    gains = [f.u.shape[1] * (1 / len(f.u) + 1 / len(f.v)) for f in factors]  # C (O + J) / (O J)
    order = sorted((i for i, gain in enumerate(gains) if gain > 1), key=lambda i: (-gains[i], i))
    all_fit = sum(sizes[i] for i in order) <= dense_bytes
    plan: list[Dense] = ["none"] * len(factors)
    for i in order:
        half = not all_fit and 1 - float(factors[i].energy.mean()) >= 100 * _ROUNDING
        dense: Dense = "half" if half else "full"
        if (size := _size(factors[i], dense)) <= dense_bytes:
            dense_bytes -= size
            plan[i] = dense
    return plan


def planned_bytes(factors: Sequence[SeedFactors], dense_bytes: int) -> int:
    """Return the bytes of W in `plan_dense`. With so many bytes, it makes the same plan again, on any machine."""
    plan = plan_dense(factors, dense_bytes)
    return sum(_size(f, dense) for f, dense in zip(factors, plan, strict=True))


def _size(f: SeedFactors, dense: Dense) -> int:
    """The bytes of W [S, O, J]."""
    width = {"none": 0, "half": 2, "full": f.u.element_size()}[dense]
    return len(f.u) * len(f.v) * (len(f.column_offsets) - 1) * width


def dense_room(limit: int | None, beside: int, device: torch.device) -> int:
    """Return the most memory for W: a part of what a plan may take, and on a CPU at most 2 GiB.

    Args:
        limit: bytes that the plan may take beside the weights; None where the system does not say what is free.
        beside: bytes of U and V of all layers, and of a batch.
        device: the device.
    """
    if limit is None:
        return DENSE_BYTES
    most = max(0, min(int(limit * _PLAN_SHARE), limit - beside))
    return min(most, DENSE_BYTES) if device.type == "cpu" else most


def _dense_gradients(factors: SeedFactors, columns: Segments, half: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return W [S, O, J] with W[s] = U_s V_s^T; and the scale of each seed if W is float16."""
    u, v = factors.u, factors.v
    w = torch.empty(len(columns), len(u), len(v), dtype=torch.float16 if half else u.dtype, device=u.device)
    scale = torch.ones(len(columns), dtype=u.dtype, device=u.device) if half else None
    for seed, (i, j) in enumerate(zip(columns.bounds, columns.bounds[1:], strict=False)):
        product = u[:, i:j] @ v[:, i:j].T
        if scale is None:
            w[seed] = product
        else:
            w[seed], scale[seed] = ops.halved(product)
    return w, scale
