"""Triton version of the second moments of experts. Shapes and dtypes: see __init__.py.

One launch serves all experts: a program has a tile of one expert's sums. It adds the expert's rows (examples) in order,
and then adds the tile to the sums. The experts are enough programs, so no tile is shared.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from gdig.kernels.configs import Config, current, pinned
from gdig.kernels.covariance.triton import add_mirrored, add_sums, corner, kind, precision, products, tile_count
from gdig.kernels.expert_rows import ExpertRows, on_device


@triton.jit
def _gram(
    x, keep, outs, bounds, width, tiles, examples, stride, keep_stride, row, column,
    BIAS: tl.constexpr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add one tile of an expert's sums, and with BIAS the sums of the columns of x and the number of rows."""
    p = tl.program_id(0) % tiles
    expert = tl.program_id(0) // tiles
    i, j = corner(p, N // M)
    m, n = i * M + tl.arange(0, M), j * N + tl.arange(0, N)
    first = tl.load(bounds + expert * (examples + 1))
    last = tl.load(bounds + expert * (examples + 1) + examples)
    address = tl.load(outs + expert)
    if (first < last) & (address != 0):
        out = address.to(tl.pointer_type(tl.float32))
        if BIAS and i >= j * (N // M):
            total, sums, count = products(
                x, keep, first, last, stride, keep_stride, width, m, n, M, N, K, True, PRECISION
            )
            add_sums(out, row, column, m, sums, count, width, p == 0)
        else:
            total, sums, count = products(
                x, keep, first, last, stride, keep_stride, width, m, n, M, N, K, False, PRECISION
            )
        add_mirrored(out, row, column, m, n, total, width)


@triton.jit
def _squares(
    a, d, outs, bounds, examples, length, o_width, j_width, j_tiles, tiles, a_stride, d_stride, row, column,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add one tile of an expert's sum_e (d_e^T a_e)^2."""
    tile = tl.program_id(0) % tiles
    expert = tl.program_id(0) // tiles
    m, n = (tile // j_tiles) * M + tl.arange(0, M), (tile % j_tiles) * N + tl.arange(0, N)
    address = tl.load(outs + expert)
    if address != 0:
        own = bounds + expert * (examples + 1)
        chunks = tl.cdiv(length, K)
        gradient = tl.zeros([M, N], tl.float32)
        squares = tl.zeros([M, N], tl.float32)
        # One loop over the chunks of all examples, so that the loads of the next example run ahead.
        for step in range(examples * chunks):
            e, chunk = step // chunks, step % chunks
            start, end = tl.load(own + e), tl.load(own + e + 1)
            t = start + chunk * K + tl.arange(0, K)
            inside = (t < end)[:, None]
            left = tl.load(d + t[:, None] * d_stride + m[None, :], mask=inside & (m < o_width)[None, :], other=0.0)
            right = tl.load(a + t[:, None] * a_stride + n[None, :], mask=inside & (n < j_width)[None, :], other=0.0)
            gradient = tl.dot(tl.trans(left), right, gradient, input_precision=PRECISION)
            if chunk == chunks - 1:
                squares += gradient * gradient
                gradient = tl.zeros([M, N], tl.float32)
        inside = (m < o_width)[:, None] & (n < j_width)[None, :]
        at = address.to(tl.pointer_type(tl.float32)) + m.to(tl.int64)[:, None] * row + n.to(tl.int64)[None, :] * column
        tl.store(at, tl.load(at, mask=inside, other=0.0) + squares, mask=inside)


def covariance_experts(
    x: torch.Tensor, mask: torch.Tensor, rows: ExpertRows, out: Sequence[torch.Tensor], *, config: Config | None = None
) -> None:
    """Add sum_t mask_t x_t x_t^T over each expert's rows to its sums. With bias, these have one row and column more."""
    width, bias = x.shape[1], len(out[0]) > x.shape[1]
    if not rows.end:
        return
    # A program holds its tile and adds it to the sums itself, so the tiles are those of float32, the smaller ones.
    c = dict(config or pinned("covariance", "float", x.device))
    c.pop("programs")
    x = x if x.stride(1) == 1 else x.contiguous()
    tiles = tile_count(width, c["M"], c["N"])
    with current(x.device):
        _gram[(tiles * len(rows),)](
            x, mask, _addresses(out, x.device), rows.on(x.device), width, tiles, rows.examples, x.stride(0),
            mask.stride(0), *out[0].stride(), BIAS=bias, PRECISION=precision(x), **c,
        )  # fmt: skip


def squared_gradients_experts(
    a: torch.Tensor, d: torch.Tensor, rows: ExpertRows, out: Sequence[torch.Tensor | None], *,
    config: Config | None = None,
) -> None:  # fmt: skip
    """Add the sum over examples of the elementwise square of d_e^T a_e to each expert's sums [O, J]."""
    sums = next((own for own in out if own is not None), None)
    if sums is None or not rows.end:
        return
    (o, j), length = sums.shape, rows.longest
    c = dict(config or pinned("squared_gradients", kind(a, length), a.device))
    c.pop("programs")
    a, d = (side if side.stride(1) == 1 else side.contiguous() for side in (a, d))
    j_tiles = triton.cdiv(j, c["N"])
    tiles = triton.cdiv(o, c["M"]) * j_tiles
    with current(a.device):
        _squares[(tiles * len(rows),)](
            a, d, _addresses(out, a.device), rows.on(a.device), rows.examples, length, o, j, j_tiles, tiles,
            a.stride(0), d.stride(0), *sums.stride(), PRECISION=precision(a), **c,
        )  # fmt: skip


def _addresses(out: Sequence[torch.Tensor | None], device: torch.device) -> torch.Tensor:
    """Where the sums of each expert lie: int64 [E]; 0 for an expert without sums."""
    strides = {own.stride() for own in out if own is not None}
    assert len(strides) <= 1, "the sums of all experts have one layout"
    return on_device(torch.tensor([0 if own is None else own.data_ptr() for own in out]), device)
