"""A small matrix product, to show and to test how kernels are compiled without a GPU (test_triton_compile.py)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _gram(x, out, rows, width, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    """Out [M, N] = the first M columns of x [rows, width], transposed, times the first N."""
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    total = tl.zeros([M, N], tl.float32)
    for start in range(0, rows, K):
        t = start + k
        left = tl.load(x + t[:, None] * width + m[None, :], mask=t[:, None] < rows, other=0.0)
        right = tl.load(x + t[:, None] * width + n[None, :], mask=t[:, None] < rows, other=0.0)
        total = tl.dot(tl.trans(left), right, total)
    tl.store(out + m[:, None] * N + n[None, :], total)


def gram(tile: int, warps: int, stages: int) -> torch.Tensor:
    """Launch it on random bfloat16 rows (float16 where they are interpreted); returns the difference from float64."""
    dtype = torch.float16 if triton.knobs.runtime.interpret else torch.bfloat16
    x = torch.randn(70, 256, generator=torch.Generator().manual_seed(0)).to(dtype)
    out = torch.full((tile, tile), float("nan"))
    _gram[(1,)](x, out, 70, 256, M=tile, N=tile, K=64, num_warps=warps, num_stages=stages)
    return (out.double() - (x.double().T @ x.double())[:tile, :tile]).abs().max()
