"""What the Triton versions of `score` and `project` share: rows of a batch times a prepared factor, tile by tile."""

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
    """Rows of x [*, width] times columns of w, stored [columns, width padded with zeros to whole K]: float32 [M, N].

    rows, columns: int64 [M], [N]. MASKED: rows where not `inside` are not read and count as zero. WHOLE: width is a
    multiple of K.
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
    """x, or a copy padded with zeros on the right, such that rows begin and end at multiples of 16 numbers and can be
    read 16 bytes at a time. The distance of rows is free otherwise. Widths of real layers need no copy."""
    if x.stride(1) == 1 and x.stride(0) % 16 == 0 and x.shape[1] % 16 == 0 and x.data_ptr() % 16 == 0:
        return x
    out = x.new_zeros(len(x), -(-x.shape[1] // 16) * 16)
    out[:, : x.shape[1]] = x
    return out


def precision(dtype: torch.dtype) -> str:
    """float32 goes through the tensor cores as three products of TensorFloat-32: a product is then off by at most
    3 * 2^-22 of its size, less than summing a dozen of them in float32, at several times the speed of "ieee"."""
    return "tf32x3" if dtype == torch.float32 else "ieee"


def kind(dtype: torch.dtype) -> str:
    """The kind of input that a configuration is pinned for."""
    return "float" if dtype == torch.float32 else "half"
