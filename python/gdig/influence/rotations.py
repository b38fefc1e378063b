"""Rotations of inputs and output gradients into the eigenbases of a layer, and the precision of their products."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch

from gdig.config.config import Config
from gdig.model.precision import float32_products, takes_bfloat16
from gdig.ops import ExpertRows

_BRIEF_WIDTH = 384
"""Columns of a basis from which on its products are bfloat16. A narrower one costs little either way."""
_LEAST_DAMPING = 0.01
"""Of the mean eigenvalue. Rounding adds some 2^-17 of the mean square of the rotated entries to each square."""


def rotations_in_bfloat16(config: Config, device: torch.device) -> bool:
    """Whether rotations of wide layers may be products of bfloat16: by the options, where this CPU multiplies it.

    Weak damping would show the rounding in the directions of little data, so it needs exact rotations.
    """
    damped = config.damping_mode == "relative" and config.damping_factor >= _LEAST_DAMPING
    return damped and takes_bfloat16(config.matmul_precision, device)


def rotate(x: torch.Tensor, q: torch.Tensor, bfloat16: bool = False) -> torch.Tensor:
    """Return x Q in the dtype of Q.

    With `bfloat16`, a wide Q in float32, x and the result are rounded to it, each by at most 2^-8 of a number. That
    adds some 2^-17 of the mean square of the entries to each one's square, and up to 2^-8 of an entry by chance.

    On CUDA, x in half precision is exact in TF32, and Q is cut to TF32. So an entry is off by at most 2^-10 of the sum
    of the sizes of its terms. x itself was rounded by up to 2^-8 (bfloat16) or 2^-11 (float16). Float32 products,
    without the tensor cores, would take several times as long as the model's own pass.
    """
    if bfloat16 and _is_wide(q):
        return (x.bfloat16() @ q.bfloat16()).to(q.dtype)
    with float32_products(rotation_precision(x.device.type, x.dtype, torch.get_float32_matmul_precision())):
        return x.to(q.dtype) @ q


def _is_wide(q: torch.Tensor) -> bool:
    return q.dtype == torch.float32 and len(q) >= _BRIEF_WIDTH


def rotate_experts(
    x: torch.Tensor, bases: Sequence[torch.Tensor | None], rows: ExpertRows, bfloat16: bool = False
) -> torch.Tensor:
    """As `rotate`, for rows of experts, each in the basis of its expert. Rows of an expert without one become zeros."""
    q = next(basis for basis in bases if basis is not None)
    out = q.new_zeros(len(x), q.shape[1])
    for basis, (i, j) in zip(bases, pairwise(rows.bounds), strict=True):
        if basis is not None and i < j:
            out[i:j] = rotate(x[i:j], basis, bfloat16)
    return out


def rotation_precision(device_type: str, dtype: torch.dtype, asked: str) -> str:
    """Return the precision of a rotation: that of the option, but TF32 for half precision on CUDA."""
    return "high" if device_type == "cuda" and dtype.itemsize == 2 and asked == "highest" else asked
