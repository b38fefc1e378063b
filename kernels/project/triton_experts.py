"""Triton version of the sketch of experts. Shapes and dtypes: see __init__.py.

One launch projects the rows of all experts: a program has some rows of one expert. An expert sees few rows of an
example, so the second launch multiplies the two sides without the tensor cores. A program has an example and some
columns of the sketch, and adds expert by expert, row by row. So a column is one sum in one order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from gdig.kernels.configs import Config, current, pinned
from gdig.kernels.expert_rows import ExpertRows, on_device
from gdig.kernels.products import aligned, precision, times
from gdig.kernels.project.prepared import PreparedExperts
from gdig.kernels.project.triton import kind

# How many entries of the table a program looks up at a time.
_LOOKUP = 512


@triton.jit
def _sides(
    a, d, q, p, q_scale, p_scale, bias, left, right, tiles, i_width, o_width, a_stride, d_stride, q_stride, p_stride,
    BIAS: tl.constexpr, WHOLE_I: tl.constexpr, WHOLE_O: tl.constexpr, M: tl.constexpr, P: tl.constexpr,
    K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """P d_t and Q a_t of M rows of an expert: float32 left [rows, P] and right [rows, P]."""
    at = tiles + tl.program_id(0) * 3
    last, expert = tl.load(at + 1), tl.load(at + 2)
    t = tl.load(at) + tl.arange(0, M)
    rows, inside = t.to(tl.int64), t < last
    own = expert.to(tl.int64) * P + tl.arange(0, P)
    place = rows[:, None] * P + tl.arange(0, P)[None, :]
    side = times(d, p, rows, inside, own, o_width, d_stride, p_stride, M, P, K, True, WHOLE_O, PRECISION)
    tl.store(left + place, side * tl.load(p_scale + own)[None, :], mask=inside[:, None])
    side = times(a, q, rows, inside, own, i_width, a_stride, q_stride, M, P, K, True, WHOLE_I, PRECISION)
    side = side * tl.load(q_scale + own)[None, :]
    if BIAS:
        side += tl.load(bias + own)[None, :]
    tl.store(right + place, side, mask=inside[:, None])


@triton.jit(do_not_specialize=["experts", "examples"])
def _columns(
    left, right, weights, table, bounds, out, experts, examples, dim, row, column,
    P: tl.constexpr, DEPTH: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Add C columns of the sketch of an example: the sums of their entries over its rows, expert by expert."""
    e = tl.program_id(0)
    c = tl.program_id(1) * C + tl.arange(0, C)
    r = tl.arange(0, DEPTH)
    total = tl.zeros([DEPTH, C], tl.float32)
    for expert in range(experts):
        own = bounds + expert * (examples + 1) + e
        first, last = tl.load(own).to(tl.int32), tl.load(own + 1).to(tl.int32)
        if first < last:
            at = table + (expert * DEPTH + r[:, None]) * dim + c[None, :]
            k = tl.load(at, mask=(c < dim)[None, :], other=-1).to(tl.int32)  # [DEPTH, C]
            x_at, y_at = left + tl.cast(first, tl.int64) * P + k // P, right + tl.cast(first, tl.int64) * P + k % P
            sums = tl.zeros([DEPTH, C], tl.float32)
            for _ in range(first, last):
                sums += tl.load(x_at, mask=k >= 0, other=0.0) * tl.load(y_at, mask=k >= 0, other=0.0)
                x_at += P
                y_at += P
            total += sums * tl.load(weights + expert * (P * P) + k, mask=k >= 0, other=0.0)
    place = out + e.to(tl.int64) * row + c.to(tl.int64) * column
    tl.store(place, tl.load(place, mask=c < dim, other=0.0) + tl.sum(total, 0), mask=c < dim)


def project_experts(
    a: torch.Tensor, d: torch.Tensor, rows: ExpertRows, side: int, prepared: PreparedExperts, out: torch.Tensor, *,
    config: Config | None = None,
) -> None:  # fmt: skip
    """Add the sketches of all experts' rows to out [B, dim]."""
    if not rows.end:
        return
    c = dict(config or pinned("project_experts", kind(d.dtype, side), d.device))
    a, d, device = aligned(a), aligned(d), d.device
    experts, depth, dim = prepared.table.shape
    wide = len(prepared.p) // experts
    tiles = rows.tiles(c["M"], range(experts))
    left, right = torch.empty(2, rows.end, wide, device=device)
    block = min(1 << (dim - 1).bit_length(), max(1, _LOOKUP // depth))
    with current(device):
        _sides[(len(tiles),)](
            a, d, prepared.q, prepared.p, prepared.q_scale, prepared.p_scale, prepared.bias, left, right,
            on_device(torch.tensor(tiles, dtype=torch.int32), device), a.shape[1], d.shape[1],
            a.stride(0), d.stride(0), prepared.q.stride(0), prepared.p.stride(0),
            BIAS=prepared.bias is not None, WHOLE_I=a.shape[1] % c["K"] == 0, WHOLE_O=d.shape[1] % c["K"] == 0,
            P=wide, PRECISION=precision(d.dtype), **c,
        )  # fmt: skip
        _columns[(rows.examples, triton.cdiv(dim, block))](
            left, right, prepared.weights, prepared.table, rows.on(device), out, experts, rows.examples, dim,
            *out.stride(), P=wide, DEPTH=depth, C=block,
        )  # fmt: skip


def candidates(operation: str, kind: str) -> list[dict[str, int]]:
    """The configurations of "project_experts" that the tuner tries. Hopper's tensor cores take 64 rows at least."""
    return [
        {"M": m, "K": k, "num_warps": warps, "num_stages": stages}
        for m, warps in ((64, 4), (64, 8), (128, 4), (128, 8))
        for k in ((32, 64, 128) if kind.startswith("half") else (32, 64))
        for stages in (2, 3, 4, 5)
    ]
