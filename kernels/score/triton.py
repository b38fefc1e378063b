"""Triton version of the influence scores. Shapes and dtypes: see __init__.py; how it works: kernels/README.md.

The first kernel multiplies the tiles of the two products in registers, and sums over chunks of columns and groups of
tokens. A second, small kernel adds the chunks and groups. The order of both sums does not depend on the timing.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from gdig.kernels.configs import Config, current, pinned
from gdig.kernels.products import aligned, kind, precision, times
from gdig.kernels.score.prepared import Prepared
from gdig.kernels.segments import Segments


@triton.jit
def tile_of_program(row_tiles, column_tiles, BAND: tl.constexpr):
    """The row and the column of the program's tile.

    Programs that run together share BAND rows of tiles, so they find each other's operands in the L2 cache.
    """
    pid = tl.program_id(0)
    band = pid // (BAND * column_tiles)
    high = tl.minimum(row_tiles - band * BAND, BAND)
    within = pid % (BAND * column_tiles)
    return band * BAND + within % high, within // high


@triton.jit
def chunk_sums(
    a, d, u, v, scale, bias, t, c, tokens, columns, i_width, o_width, a_stride, d_stride, u_stride, v_stride,
    BIAS: tl.constexpr, CHUNK: tl.constexpr, WHOLE_I: tl.constexpr, WHOLE_O: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """(d_t . u_c)(a_t . v_c) of the rows t < tokens, summed over chunks of the columns c: [M, N / CHUNK]."""
    # Past the end, the last row or column is read, which is cheaper than a mask; it is dropped below.
    rows = tl.minimum(t, tokens - 1).to(tl.int64)
    at = tl.minimum(c, columns - 1).to(tl.int64)
    left = times(d, u, rows, rows, at, o_width, d_stride, u_stride, M, N, K, False, WHOLE_O, PRECISION)  # [M, N]
    right = times(a, v, rows, rows, at, i_width, a_stride, v_stride, M, N, K, False, WHOLE_I, PRECISION)  # [M, N]
    if BIAS:
        right += tl.load(bias + at)[None, :]
    product = tl.where((t < tokens)[:, None], left * right * tl.load(scale + at)[None, :], 0.0)
    return tl.sum(tl.reshape(product, [M, N // CHUNK, CHUNK]), 2)


@triton.jit(do_not_specialize=["tokens", "columns", "groups", "chunks", "row_tiles", "column_tiles"])
def _products(
    a, d, u, v, scale, bias, partials, tokens, columns, i_width, o_width, groups, chunks, row_tiles, column_tiles,
    a_stride, d_stride, u_stride, v_stride,
    BIAS: tl.constexpr, GROUP: tl.constexpr, CHUNK: tl.constexpr, WHOLE_I: tl.constexpr, WHOLE_O: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, BAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Store a tile of (d_t . u_c)(a_t . v_c), summed over GROUP tokens and CHUNK columns, in partials
    [groups, chunks]."""
    i, j = tile_of_program(row_tiles, column_tiles, BAND)
    t = i * M + tl.arange(0, M)
    c = j * N + tl.arange(0, N)
    by_chunk = chunk_sums(
        a, d, u, v, scale, bias, t, c, tokens, columns, i_width, o_width, a_stride, d_stride, u_stride, v_stride,
        BIAS, CHUNK, WHOLE_I, WHOLE_O, M, N, K, PRECISION,
    )  # fmt: skip
    sums = tl.sum(tl.reshape(by_chunk, [M // GROUP, GROUP, N // CHUNK]), 1)  # [M / GROUP, N / CHUNK]
    g = i * (M // GROUP) + tl.arange(0, M // GROUP)
    h = j * (N // CHUNK) + tl.arange(0, N // CHUNK)
    place = partials + g.to(tl.int64)[:, None] * chunks + h[None, :]
    tl.store(place, sums, mask=(g < groups)[:, None] & (h < chunks)[None, :])


@triton.jit(do_not_specialize=["seeds", "chunk_count", "most"])
def _gather(
    partials, bounds, chunks, out, seeds, chunk_count, most, row, column,
    GROUP: tl.constexpr, G: tl.constexpr, S: tl.constexpr,
):  # fmt: skip
    """Add an example's groups and S seeds' chunks: all groups of a chunk, then those of the next chunk."""
    e = tl.program_id(0)
    s = tl.program_id(1) * S + tl.arange(0, S)
    # Only the last example can end inside a group; an empty example after it starts behind that group.
    first = tl.cdiv(tl.load(bounds + e), GROUP)
    last = tl.cdiv(tl.load(bounds + e + 1), GROUP)
    start = tl.load(chunks + s, mask=s < seeds, other=0)
    end = tl.load(chunks + s + 1, mask=s < seeds, other=0)
    total = tl.zeros([G, S], tl.float32)
    for n in range(most):
        h = start + n
        for begin in range(first, last, G):
            g = begin + tl.arange(0, G)
            at = partials + g.to(tl.int64)[:, None] * chunk_count + h[None, :]
            total += tl.load(at, mask=(g < last)[:, None] & (h < end)[None, :], other=0.0)
    place = out + e.to(tl.int64) * row + s.to(tl.int64) * column
    tl.store(place, tl.load(place, mask=s < seeds, other=0.0) + tl.sum(total, 0), mask=s < seeds)


def score(
    a: torch.Tensor,
    d: torch.Tensor,
    examples: Segments,
    prepared: Prepared,
    out: torch.Tensor,
    *,
    config: Config | None = None,
) -> None:
    """Add sum_t sum_{c of s} (d_t . u_c)(a_t . v_c) to out [B, S]."""
    tokens, columns = len(a), len(prepared.u)
    if tokens == 0 or columns == 0:
        return
    c = dict(config or pinned("score", kind(a.dtype), a.device))
    a, d = aligned(a), aligned(d)
    group = min(examples.grain or c["M"], c["M"])
    groups, chunks = triton.cdiv(tokens, group), columns // prepared.chunk
    row_tiles, column_tiles = triton.cdiv(tokens, c["M"]), triton.cdiv(columns, c["N"])
    seeds = out.shape[1]
    partials = torch.empty(groups, chunks, device=a.device)
    with current(a.device):
        _products[(row_tiles * column_tiles,)](
            a, d, prepared.u, prepared.v, prepared.scale, prepared.bias, partials, tokens, columns, a.shape[1],
            d.shape[1], groups, chunks, row_tiles, column_tiles,
            a.stride(0), d.stride(0), prepared.u.stride(0), prepared.v.stride(0),
            BIAS=prepared.bias is not None, GROUP=group, CHUNK=prepared.chunk, WHOLE_I=a.shape[1] % c["K"] == 0,
            WHOLE_O=d.shape[1] % c["K"] == 0, PRECISION=precision(a.dtype), **c,
        )  # fmt: skip
        _gather[(len(examples), triton.cdiv(seeds, 32))](
            partials, examples.on(a.device), prepared.chunks, out, seeds, chunks, prepared.most, *out.stride(),
            GROUP=group, G=16, S=32, num_warps=1,
        )  # fmt: skip


def candidates(operation: str, kind: str) -> list[dict[str, int]]:
    """The configurations of "score" that the tuner tries. Two float32 tiles M x N must fit the registers."""
    half = kind == "half"
    tiles = [(128, 128, 8), (64, 256, 8), (256, 64, 8), (64, 128, 4), (128, 64, 4)]
    return [
        {"M": m, "N": n, "K": k, "BAND": band, "num_warps": warps, "num_stages": stages}
        for m, n, warps in (tiles if half else [(64, 64, 4), (128, 64, 8), (64, 128, 8)])
        for k in ((32, 64, 128) if half else (16, 32))
        for band in (4, 8, 16)
        for stages in (2, 3, 4, 5)
    ]
