"""Which layers score by the seeds' dense gradients W, within how much memory.

For B examples with T tokens in all, S seeds and C columns, the two ways to score take

    by columns:  C (O + J) T         (d_t U) and (a_t V) for each token
    dense:       O J (T + S (B + R)) the gradient of each example, its products with W [S, O, J], and reading W

multiplications. An expert that sees the share r of the tokens has r T in their place. R is the cost of reading W once
for a batch, in examples: W does not fit the caches. Measured on one core of an AMD EPYC (AVX2, 67 GFLOP/s), 1536 x 576,
64 seeds: R = 25, and 36 with W in float16 (LOG.md). Both ways then run at the same speed. The choice is made once for a
layer, for a batch of 1,024 tokens in 16 examples. So a layer holds either W or the columns.

Where the CPU multiplies bfloat16 in hardware (`gdig.model.precision`), both ways do so in large layers: on one core of
an AMD EPYC (Zen 5) four to five times as fast as in float32, with R = 20.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from gdig.model.batch_size import CPU_TOKENS, CPU_TOKENS_WITH_W

DENSE_BYTES = 3 << 29
"""Most memory for the dense gradients W of the seeds, over all layers, on a CPU: 1.5 GiB. It leaves 2.4 GB of 4 for
Python, a small model, its batches and the rows of a shard."""
_PLAN_SHARE = 0.4
"""Most of the memory that a plan may take which goes to W: a quarter of the free memory."""
_BATCH_TOKENS, _BATCH_ROWS = 1024, 16
"""T and B."""
_READING = {"full": 25, "half": 36, "brief": 20}
"""R: the cost of reading W once, in examples."""
_ROUNDING = 2.0**-22
"""The square of float16's largest relative error."""
_BRIEF_ROUNDING = 6 * 2.0**-16 / 3
"""The mean squares of the relative errors of six roundings to bfloat16: at most 2^-8 of a number, evenly spread. By
columns, those of inputs, output gradients, U, V and both products; by W there are five."""
_BRIEF_SIZE = 1 << 17
"""Numbers of a matrix from which on its scores take bfloat16. A smaller one costs little either way."""

Dense = Literal["none", "full", "half", "brief columns", "brief"]
"""Whether a layer has W, and whether in the dtype of the factors or in float16 (half). The brief ways hold the columns
or W in bfloat16, and multiply in it."""
COLUMNS: tuple[Dense, ...] = ("none", "brief columns")
"""The ways without W."""


@dataclass(frozen=True)
class SeedShape:
    """The shape of the seeds' factors in a layer: O, J, C and S, bytes of a number, and the mean energy kept.

    share: of a batch's tokens, those that the layer sees. bfloat16: whether the CPU multiplies bfloat16.
    """

    outputs: int
    width: int
    columns: int
    seeds: int
    item: int
    energy: float
    share: float = 1.0
    bfloat16: bool = False

    @property
    def brief(self) -> bool:
        """Whether products are in bfloat16: in large layers, if it adds less than a hundredth to the squared error of
        the low-rank form."""
        large = self.outputs * self.width >= _BRIEF_SIZE and self.item == 4
        return self.bfloat16 and large and 1 - self.energy >= 100 * _BRIEF_ROUNDING

    @property
    def gain(self) -> float:
        """C (O + J) / (O J): what a token costs by columns, beside its part in a dense gradient."""
        return self.columns * (1 / self.outputs + 1 / self.width)

    def worth(self, dense: Dense) -> bool:
        """Whether W is cheaper than the columns."""
        return self.gain > 1 + self.seeds * (_BATCH_ROWS + _READING[dense]) / (_BATCH_TOKENS * self.share)

    def bytes_of(self, dense: Dense) -> int:
        """The bytes of W [S, O, J]; without W, of U and V."""
        item = self.item if dense in ("none", "full") else 2
        if dense in COLUMNS:
            return self.columns * (self.outputs + self.width) * item
        return self.seeds * self.outputs * self.width * item


def plan_dense(shapes: Sequence[SeedShape], dense_bytes: int) -> list[Dense]:
    """Choose the layers that compute W, from shapes and energies alone.

    The layers in which W is cheaper may not fit `dense_bytes`. Then the layers that W helps most come first. W is
    float16 where that adds less than a hundredth to the squared error of the low-rank form.

    Args:
        shapes: of the seeds' factors in each layer.
        dense_bytes: the most memory for W over all layers.
    """
    best: list[Dense] = ["brief" if shape.brief else "full" for shape in shapes]
    order = sorted((i for i, s in enumerate(shapes) if s.worth(best[i])), key=lambda i: (-shapes[i].gain, i))
    all_fit = sum(shapes[i].bytes_of(best[i]) for i in order) <= dense_bytes
    plan: list[Dense] = ["brief columns" if shape.brief else "none" for shape in shapes]
    for i in order:
        half = best[i] == "full" and not all_fit and 1 - shapes[i].energy >= 100 * _ROUNDING
        dense: Dense = "half" if half else best[i]
        if shapes[i].worth(dense) and (size := shapes[i].bytes_of(dense)) <= dense_bytes:
            dense_bytes -= size
            plan[i] = dense
    return plan


def planned_bytes(shapes: Sequence[SeedShape], dense_bytes: int) -> int:
    """Return the bytes of W in `plan_dense`. With so many bytes, it makes the same plan again, on any machine of which
    the CPU multiplies bfloat16 alike."""
    plan = plan_dense(shapes, dense_bytes)
    return sum(s.bytes_of(dense) for s, dense in zip(shapes, plan, strict=True) if dense not in COLUMNS)


def cpu_tokens(layers_with_w: int, layers: int) -> int:
    """Return the largest batch for a CPU: a larger one where half of the layers or more read W once a batch."""
    return CPU_TOKENS_WITH_W if layers_with_w and 2 * layers_with_w >= layers else CPU_TOKENS


def dense_room(limit: int | None, beside: int, device: torch.device) -> int:
    """Return the most memory for W: a part of what a plan may take on a CPU, at most 1.5 GiB, and none on a GPU.

    There `score` is a launch or two a layer, and the products with W, in blocks for a CPU's caches, are hundreds.

    Args:
        limit: bytes that the plan may take beside the weights; None where the system does not say what is free.
        beside: bytes of U and V of all layers, and of a batch.
        device: the device.
    """
    if device.type == "cuda":
        return 0
    if limit is None:
        return DENSE_BYTES
    most = max(0, min(int(limit * _PLAN_SHARE), limit - beside))
    return min(most, DENSE_BYTES) if device.type == "cpu" else most
