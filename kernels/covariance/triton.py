"""Triton version of the second moments. Shapes and dtypes: see __init__.py; how they work: kernels/README.md.

The order of a sum does not depend on the timing. One program sums a tile, in the order of the tokens. When several
programs share the tokens, each stores its sum, and the stored sums are added in order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from gdig.kernels.configs import Config, current, pinned
from gdig.kernels.segments import Segments

# Costs in units of the time of a program for a token: to start and store its tile; to add a stored tile to the sum.
_START, _GATHER = 640, 64
_MOST_SPLITS = 16


@triton.jit
def corner(p, RATIO: tl.constexpr):
    """The row and the column of tile p of the upper triangle, whose tiles are numbered column after column.

    A column of tiles is RATIO times as wide as a row is high, so column j has RATIO * (j + 1) tiles.
    """
    q = p // RATIO
    j = ((tl.sqrt(8.0 * q.to(tl.float32) + 1.0) - 1.0) * 0.5).to(tl.int32)
    j = tl.where(j * (j + 1) // 2 > q, j - 1, j)  # the root is rounded
    j = tl.where((j + 1) * (j + 2) // 2 <= q, j + 1, j)
    return p - RATIO * (j * (j + 1) // 2), j


@triton.jit
def products(
    x, keep, first, last, stride, keep_stride, width, m, n, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
    SUMS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The sum of x_m x_n [M, N] over the rows first .. last - 1 that count; with SUMS, of x_m [M] and their number."""
    total = tl.zeros([M, N], tl.float32)
    sums = tl.zeros([K, M], tl.float32)
    count = tl.zeros([K], tl.float32)
    for start in range(first, last, K):
        t = start + tl.arange(0, K)
        token_mask = tl.load(keep + t.to(tl.int64) * keep_stride, mask=t < last, other=0) != 0  # [K]
        rows = x + t.to(tl.int64)[:, None] * stride
        left = tl.load(rows + m[None, :], mask=token_mask[:, None] & (m < width)[None, :], other=0.0)  # [K, M]
        right = tl.load(rows + n[None, :], mask=token_mask[:, None] & (n < width)[None, :], other=0.0)  # [K, N]
        total = tl.dot(tl.trans(left), right, total, input_precision=PRECISION)
        if SUMS:
            sums += left.to(tl.float32)
            count += token_mask.to(tl.float32)
    return total, tl.sum(sums, 0), tl.sum(count, 0)


@triton.jit
def _add(at, value, mask):
    tl.store(at, tl.load(at, mask=mask, other=0.0) + value, mask=mask)


@triton.jit
def add_mirrored(out, row, column, m, n, value, width):
    """Add to the entries (m, n) of the upper triangle, and the same numbers to (n, m): symmetric to the bit."""
    m64, n64 = m.to(tl.int64), n.to(tl.int64)
    inside = (n < width)[None, :] & (m[:, None] <= n[None, :])
    _add(out + m64[:, None] * row + n64[None, :] * column, value, inside)
    below = (n < width)[:, None] & (m[None, :] < n[:, None])
    _add(out + n64[:, None] * row + m64[None, :] * column, tl.trans(value), below)


@triton.jit
def add_sums(out, row, column, m, sums, count, width, first):
    """Add the column and the row of the bias, and in the first program their corner."""
    m64 = m.to(tl.int64)
    end = tl.cast(width, tl.int64)
    _add(out + m64 * row + end * column, sums, m < width)
    _add(out + end * row + m64 * column, sums, m < width)
    _add(out + end * row + end * column, count, first)


@triton.jit
def _gram(
    x, keep, partials, tokens, width, tiles, per_split, stride, keep_stride,
    BIAS: tl.constexpr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Store one tile of one split in partials [splits, tiles, M, N].

    With BIAS, [splits, width + 1] follow: the sums of the columns of x, and the number of rows.
    """
    p = tl.program_id(0) % tiles
    split = tl.program_id(0) // tiles
    i, j = corner(p, N // M)
    m, n = i * M + tl.arange(0, M), j * N + tl.arange(0, N)
    first = split * per_split
    last = tl.minimum(first + per_split, tokens)
    # One tile of each row of tiles holds the diagonal, and sums the row's columns of x.
    if BIAS and i >= j * (N // M):
        total, sums, count = products(x, keep, first, last, stride, keep_stride, width, m, n, M, N, K, True, PRECISION)
        place = partials + tl.num_programs(0).to(tl.int64) * (M * N) + split.to(tl.int64) * (width + 1)
        tl.store(place + m, sums, mask=m < width)
        tl.store(place + width, count, mask=i == 0)
    else:
        total, sums, count = products(x, keep, first, last, stride, keep_stride, width, m, n, M, N, K, False, PRECISION)
    at = partials + tl.program_id(0).to(tl.int64) * (M * N)
    tl.store(at + tl.arange(0, M)[:, None] * N + tl.arange(0, N)[None, :], total)


@triton.jit
def _gather_gram(
    partials, out, width, tiles, splits, row, column,
    BIAS: tl.constexpr, M: tl.constexpr, N: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """Add the splits' sums in order; a program adds R rows of a tile."""
    p = tl.program_id(0) // (M // R)
    strip = tl.program_id(0) % (M // R)
    i, j = corner(p, N // M)
    m, n = i * M + strip * R + tl.arange(0, R), j * N + tl.arange(0, N)
    at = partials + p.to(tl.int64) * (M * N) + (strip * R + tl.arange(0, R))[:, None] * N + tl.arange(0, N)[None, :]
    step = tl.cast(tiles, tl.int64) * (M * N)
    total = tl.zeros([R, N], tl.float32)
    for split in range(splits):
        total += tl.load(at + split * step)
    add_mirrored(out, row, column, m, n, total, width)
    if BIAS and i >= j * (N // M):
        place = partials + splits * step
        sums, count = tl.zeros([R], tl.float32), tl.cast(0.0, tl.float32)
        for split in range(splits):
            sums += tl.load(place + tl.cast(split, tl.int64) * (width + 1) + m, mask=m < width, other=0.0)
            count += tl.load(place + tl.cast(split, tl.int64) * (width + 1) + width)
        add_sums(out, row, column, m, sums, count, width, p + strip == 0)


@triton.jit
def _squares(
    a, d, bounds, out, examples, length, o_width, j_width, j_tiles, tiles, per_split, a_stride, d_stride, row, column,
    UNIFORM: tl.constexpr, ONE: tl.constexpr, SPLIT: tl.constexpr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of sum_e (d_e^T a_e)^2 over the examples of a split, added to out; with SPLIT, stored."""
    tile = tl.program_id(0) % tiles
    split = tl.program_id(0) // tiles
    m, n = (tile // j_tiles) * M + tl.arange(0, M), (tile % j_tiles) * N + tl.arange(0, N)
    first = split * per_split
    last = tl.minimum(first + per_split, examples)
    chunks = 1 if ONE else tl.cdiv(length, K)
    gradient = tl.zeros([M, N], tl.float32)
    squares = tl.zeros([M, N], tl.float32)
    # One loop over the chunks of all examples, so that the loads of the next example run ahead.
    for step in range(first * chunks, last * chunks):
        e, chunk = step // chunks, step % chunks
        if UNIFORM:
            start = tl.cast(e, tl.int64) * length
            end = start + length
        else:
            start, end = tl.load(bounds + e), tl.load(bounds + e + 1)
        t = start + chunk * K + tl.arange(0, K)
        inside = (t < end)[:, None]
        left = tl.load(d + t[:, None] * d_stride + m[None, :], mask=inside & (m < o_width)[None, :], other=0.0)
        right = tl.load(a + t[:, None] * a_stride + n[None, :], mask=inside & (n < j_width)[None, :], other=0.0)
        if ONE:
            gradient = tl.dot(tl.trans(left), right, input_precision=PRECISION)  # [M, N]
            squares += gradient * gradient
        else:
            gradient = tl.dot(tl.trans(left), right, gradient, input_precision=PRECISION)
            if chunk == chunks - 1:
                squares += gradient * gradient
                gradient = tl.zeros([M, N], tl.float32)
    inside = (m < o_width)[:, None] & (n < j_width)[None, :]
    at = m.to(tl.int64)[:, None] * row + n.to(tl.int64)[None, :] * column
    if SPLIT:
        tl.store(out + tl.cast(split, tl.int64) * o_width * j_width + at, squares, mask=inside)
    else:
        _add(out + at, squares, inside)


@triton.jit
def _gather_squares(partials, out, o_width, j_width, splits, row, column, BLOCK: tl.constexpr):
    """Add the splits' sums in order; a program adds BLOCK entries of a row of out."""
    o = tl.program_id(0).to(tl.int64)
    j = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    step = tl.cast(o_width, tl.int64) * j_width
    total = tl.zeros([BLOCK], tl.float32)
    for split in range(splits):
        total += tl.load(partials + split * step + o * j_width + j, mask=j < j_width, other=0.0)
    _add(out + o * row + j.to(tl.int64) * column, total, j < j_width)


def covariance(x: torch.Tensor, mask: torch.Tensor, out: torch.Tensor, *, config: Config | None = None) -> None:
    """Add sum_t mask_t x_t x_t^T to out. With bias, out has one row and one column more."""
    (tokens, width), bias = x.shape, out.shape[0] > x.shape[1]
    if tokens == 0:
        return
    c = dict(config or pinned("covariance", kind(x), x.device))
    programs = c.pop("programs")
    x = x if x.stride(1) == 1 else x.contiguous()
    m, n = c["M"], c["N"]
    tiles = tile_count(width, m, n)
    splits = split_count(tiles, tokens, programs)
    per_split = triton.cdiv(triton.cdiv(tokens, splits), c["K"]) * c["K"]
    splits = triton.cdiv(tokens, per_split)
    # All memory is allocated before the first write, so a batch that runs out of memory has added nothing.
    partials = torch.empty(splits * (tiles * m * n + width + 1), device=x.device)
    strip = min(m, 16)
    with current(x.device):
        _gram[(splits * tiles,)](
            x, mask, partials, tokens, width, tiles, per_split, x.stride(0), mask.stride(0),
            BIAS=bias, PRECISION=precision(x), **c,
        )  # fmt: skip
        _gather_gram[(tiles * (m // strip),)](
            partials, out, width, tiles, splits, *out.stride(), BIAS=bias, M=m, N=n, R=strip
        )


def squared_gradients(
    a: torch.Tensor, d: torch.Tensor, examples: Segments, out: torch.Tensor, *, config: Config | None = None
) -> None:
    """Add the sum over examples of the elementwise square of d_e^T a_e to out [O, J]."""
    (o, j), count, length = out.shape, len(examples), examples.longest
    if length == 0:
        return
    c = dict(config or pinned("squared_gradients", kind(a, length), a.device))
    programs = c.pop("programs")
    a, d = (side if side.stride(1) == 1 else side.contiguous() for side in (a, d))
    j_tiles = triton.cdiv(j, c["N"])
    tiles = triton.cdiv(o, c["M"]) * j_tiles
    per_split = triton.cdiv(count, min(count, split_count(tiles, count * length, programs)))
    splits = triton.cdiv(count, per_split)
    partials = torch.empty(splits, o, j, device=a.device) if splits > 1 else out
    with current(a.device):
        _squares[(splits * tiles,)](
            a, d, examples.on(a.device), partials, count, length, o, j, j_tiles, tiles, per_split,
            a.stride(0), d.stride(0), *partials.stride()[-2:], UNIFORM=examples.uniform is not None,
            ONE=length <= c["K"], SPLIT=splits > 1, PRECISION=precision(a), **c,
        )  # fmt: skip
        if splits > 1:
            _gather_squares[(o, triton.cdiv(j, 1024))](partials, out, o, j, splits, *out.stride(), BLOCK=1024)


def kind(x: torch.Tensor, length: int | None = None) -> str:
    """The kind of input, which is a key of the pinned configurations; `length`: of the longest example, for squares."""
    name = "float" if x.dtype == torch.float32 else "half"
    return name if length is None else f"{name}-{'short' if length <= 64 else 'long'}"


def split_count(tiles: int, tokens: int, programs: int) -> int:
    """How many programs share the tokens of a tile, on a GPU that runs `programs` at a time.

    The number takes the least time in a simple model of rounds of programs. It depends on the shapes alone, so that
    sums repeat.
    """

    def time(splits: int) -> float:
        rounds, whole = -(-tiles * splits // programs), -(-tiles // programs)
        return rounds * (tokens / splits + _START) + whole * splits * _GATHER

    return min(range(1, _MOST_SPLITS + 1), key=time)


def tile_count(width: int, m: int, n: int) -> int:
    """Tiles of the upper triangle of a matrix of this width: m rows high, n columns wide."""
    columns = triton.cdiv(width, n)
    return (n // m) * columns * (columns + 1) // 2


def precision(x: torch.Tensor) -> str:
    """The precision of a product on the tensor cores (see `gdig.kernels.products.precision`)."""
    return "tf32x3" if x.dtype == torch.float32 else "ieee"


def candidates(operation: str, kind: str) -> list[dict[str, int]]:
    """The configurations of "covariance" or "squared_gradients" that the tuner tries.

    In "covariance" the loads of a stage wait for the load of the mask, so only (n - 1) / 2 of n stages run ahead.
    """
    wide = kind.startswith("half")
    tiles = [(64, 64, 4), (64, 128, 4), (64, 128, 8), (128, 128, 4), (128, 128, 8)]
    tiles += [(128, 256, 8)] if operation == "covariance" else []
    return [
        {"M": m, "N": n, "K": k, "num_warps": warps, "num_stages": stages, "programs": programs}
        for m, n, warps in tiles
        for k in ((32, 64, 128) if wide else (16, 32, 64))
        for stages in ((3, 5, 7) if operation == "covariance" else (2, 3, 4))
        for programs in (132, 264)
    ]
