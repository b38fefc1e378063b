"""Tiles of the product of a batch's rows and a prepared factor, for the Triton versions of `score` and `project`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def times(
    x, w, rows, inside, columns, width, x_stride, w_stride,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, MASKED: tl.constexpr, WHOLE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Rows of x [*, width] times columns of w: float32 [M, N].

    w is stored as [columns, width padded with zeros to a multiple of K]. rows [M] and columns [N] are int64. MASKED: a
    row that is not `inside` is not read, and is zero. WHOLE: width is a multiple of K.
    """
    k = tl.arange(0, K)
    x_at = x + rows[:, None] * x_stride + k[None, :]  # [M, K]
    w_at = w + columns[None, :] * w_stride + k[:, None]  # [K, N]
    total = tl.zeros([M, N], tl.float32)
    for start in range(0, width, K):
        if WHOLE and not MASKED:
            left = tl.load(x_at)
        elif WHOLE:
            left = tl.load(x_at, mask=inside[:, None], other=0.0)
        elif MASKED:
            left = tl.load(x_at, mask=inside[:, None] & (k < width - start)[None, :], other=0.0)
        else:
            left = tl.load(x_at, mask=(k < width - start)[None, :], other=0.0)
        right = tl.load(w_at)
        total = tl.dot(left, right, total, input_precision=PRECISION)
        x_at += K
        w_at += K
    return total


def aligned(x: torch.Tensor) -> torch.Tensor:
    """x, or a copy with zeros on the right, such that each row can be read 16 bytes at a time.

    A row then begins and ends at a multiple of 16 numbers. Layers of real models have such widths, and need no copy.
    """
    if x.stride(1) == 1 and x.stride(0) % 16 == 0 and x.shape[1] % 16 == 0 and x.data_ptr() % 16 == 0:
        return x
    out = x.new_zeros(len(x), -(-x.shape[1] // 16) * 16)
    out[:, : x.shape[1]] = x
    return out


def precision(dtype: torch.dtype) -> str:
    """The precision of a product of this dtype on the tensor cores.

    float32 runs as three products of TensorFloat-32, at several times the speed of "ieee". The error of a product is at
    most 3 * 2^-22 of its size, which is less than that of summing a dozen products in float32.
    """
    return "tf32x3" if dtype == torch.float32 else "ieee"


def kind(dtype: torch.dtype) -> str:
    """The kind of input, which is a key of the pinned configurations."""
    return "float" if dtype == torch.float32 else "half"
