"""Triton version of the gradient sketch. Shapes and dtypes: see __init__.py; how it works: kernels/README.md.

A program sums the p x p blocks of whole examples and stores them in a small buffer of its own. It reads them back in
the order of the sketch's columns. So each column is one sum in one order, without atomic operations.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from gdig.kernels.configs import Config, current, pinned
from gdig.kernels.products import aligned, precision, times
from gdig.kernels.products import kind as dtype_kind
from gdig.kernels.project.prepared import Prepared
from gdig.kernels.segments import Segments

# How many entries of the table a program looks up at a time.
_LOOKUP = 2048


@triton.jit
def _right(
    a, q, scale, bias, t, last, i, i_width, a_stride, q_stride,
    SHARED: tl.constexpr, SIDE: tl.constexpr, BIAS: tl.constexpr, WHOLE: tl.constexpr,
    M: tl.constexpr, P: tl.constexpr, K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Q a_t of the tokens t < last: float32 [M, P]. Other rows are 0, or the bias."""
    inside = t < last
    rows = t.to(tl.int64)
    if SHARED:
        at = a + rows[:, None] * a_stride + i[None, :]
        right = tl.load(at, mask=inside[:, None] & (i < SIDE)[None, :], other=0.0).to(tl.float32)
    else:
        right = times(a, q, rows, inside, i.to(tl.int64), i_width, a_stride, q_stride, M, P, K, True, WHOLE, PRECISION)
        right = right * tl.load(scale + i)[None, :]
        if BIAS:
            right += tl.load(bias + i)[None, :]
    return right


@triton.jit
def _add_columns(
    partials, slot, table, out, row, column, dim, count, c0,
    P: tl.constexpr, DEPTH: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Add the columns c0 .. c0 + C - 1 of one example: the sums of their entries in `count` blocks from slot on."""
    c = c0 + tl.arange(0, C)
    r = tl.arange(0, DEPTH)
    k = tl.load(table + r[:, None] * dim + c[None, :], mask=(c < dim)[None, :], other=-1).to(tl.int32)  # [DEPTH, C]
    total = tl.zeros([DEPTH, C], tl.float32)
    for index in range(count):
        total += tl.load(partials + (slot + index) * (P * P) + k, mask=k >= 0, other=0.0)
    place = out + row + c.to(tl.int64) * column
    tl.store(place, tl.load(place, mask=c < dim, other=0.0) + tl.sum(total, 0), mask=c < dim)


@triton.jit(do_not_specialize=["examples", "length", "per_program", "splits", "per_split"])
def _blocks(
    a, d, q, p, q_scale, p_scale, bias, weights, table, bounds, partials, out, examples, length, per_program, splits,
    per_split, i_width, o_width, dim, a_stride, d_stride, q_stride, p_stride, row, column,
    SHARED: tl.constexpr, SIDE: tl.constexpr, BIAS: tl.constexpr, MANY: tl.constexpr, SPLIT: tl.constexpr,
    WHOLE_I: tl.constexpr, WHOLE_O: tl.constexpr, DEPTH: tl.constexpr, C: tl.constexpr,
    M: tl.constexpr, P: tl.constexpr, K: tl.constexpr, PRECISION: tl.constexpr, PRECISION_IN: tl.constexpr,
):  # fmt: skip
    """The blocks of some examples, or of a split of one, and their columns.

    MANY: `per_program` examples of equal length, of at most M tokens together. Else: one example, or a split of it.
    """
    pid = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, P)
    entry = i[:, None] * P + i[None, :]
    weight = tl.load(weights + entry)  # [P, P]
    if MANY:
        e0 = pid * per_program
        count = tl.minimum(examples - e0, per_program).to(tl.int32)
        first = e0 * length
        last = first + count * length
        t = first + tl.arange(0, M)
        rows = t.to(tl.int64)
        left = times(
            d, p, rows, t < last, i.to(tl.int64), o_width, d_stride, p_stride, M, P, K, True, WHOLE_O, PRECISION_IN
        )  # fmt: skip
        left = left * tl.load(p_scale + i)[None, :]  # [M, P]
        right = _right(
            a, q, q_scale, bias, t, last, i, i_width, a_stride, q_stride, SHARED, SIDE, BIAS, WHOLE_I, M, P, K,
            PRECISION_IN,
        )  # fmt: skip
        for n in range(count):
            # Both sides are masked, so that a number that is not finite stays in its example.
            own = ((t >= first + n * length) & (t < first + (n + 1) * length))[:, None]
            block = tl.dot(
                tl.trans(tl.where(own, left, 0.0)), tl.where(own, right, 0.0), input_precision=PRECISION
            )  # [P, P]
            tl.store(partials + (e0 + n) * (P * P) + entry, block * weight)
    else:
        e0 = pid // splits
        count = 1
        end = tl.load(bounds + e0 + 1)
        first = tl.load(bounds + e0) + (pid % splits) * per_split
        last = tl.minimum(first + per_split, end)
        total = tl.zeros([P, P], tl.float32)
        for start in range(first, last, M):
            t = start + tl.arange(0, M)
            rows = t.to(tl.int64)
            left = times(
                d, p, rows, t < last, i.to(tl.int64), o_width, d_stride, p_stride, M, P, K, True, WHOLE_O, PRECISION_IN
            )  # fmt: skip
            left = left * tl.load(p_scale + i)[None, :]
            right = _right(
                a, q, q_scale, bias, t, last, i, i_width, a_stride, q_stride, SHARED, SIDE, BIAS, WHOLE_I, M, P, K,
                PRECISION_IN,
            )  # fmt: skip
            total = tl.dot(tl.trans(left), right, total, input_precision=PRECISION)
        tl.store(partials + pid * (P * P) + entry, total * weight)
    if not SPLIT:
        tl.debug_barrier()  # a thread reads what other threads of the program have stored
        for n in range(count):
            for c0 in range(0, dim, C):
                _add_columns(partials, e0 + n, table, out, (e0 + n) * row, column, dim, 1, c0, P, DEPTH, C)


@triton.jit(do_not_specialize=["splits"])
def _gather(partials, table, out, splits, dim, row, column, P: tl.constexpr, DEPTH: tl.constexpr, C: tl.constexpr):
    """Add the splits' blocks of an example in order, with as many programs an example as the columns ask for."""
    e = tl.program_id(0).to(tl.int64)
    _add_columns(partials, e * splits, table, out, e * row, column, dim, splits, tl.program_id(1) * C, P, DEPTH, C)


@triton.jit(do_not_specialize=["tokens"])
def _inputs(
    a, q, scale, bias, out, tokens, i_width, a_stride, q_stride,
    SIDE: tl.constexpr, BIAS: tl.constexpr, WHOLE_I: tl.constexpr, M: tl.constexpr, P: tl.constexpr, K: tl.constexpr,
    PRECISION_IN: tl.constexpr,
):  # fmt: skip
    """Q a_t of M tokens."""
    i = tl.arange(0, P)
    t = tl.program_id(0).to(tl.int64) * M + tl.arange(0, M)
    right = _right(
        a, q, scale, bias, t, tokens, i, i_width, a_stride, q_stride, False, SIDE, BIAS, WHOLE_I, M, P, K, PRECISION_IN
    )
    tl.store(out + t[:, None] * SIDE + i[None, :], right, mask=(t < tokens)[:, None] & (i < SIDE)[None, :])


def project(
    a: torch.Tensor,
    d: torch.Tensor,
    examples: Segments,
    side: int,
    prepared: Prepared,
    out: torch.Tensor,
    *,
    shared: bool,
    config: Config | None = None,
) -> None:
    """Add R vec(P G_e Q^T) of each example to out [B, dim]. shared: a is Q a_t."""
    batch, length = len(examples), examples.longest
    if length == 0:
        return
    c = dict(config or pinned("project", kind(d.dtype, side), d.device))
    programs, gather = c.pop("programs"), c.pop("gather", 0)
    a, d = a.contiguous() if shared else aligned(a), aligned(d)
    many = examples.uniform is not None and 2 * length <= c["M"]
    per_program = c["M"] // length if many else 1
    splits, per_split = (1, length) if many else split(batch, length, c["M"], programs)
    apart = splits > 1 or bool(gather)
    wide, (depth, dim) = len(prepared.p), prepared.table.shape
    # C is a power of two, because depth is one.
    lookup = dict(P=wide, DEPTH=depth, C=min(1 << (dim - 1).bit_length(), max(1, _LOOKUP // depth)))
    partials = torch.empty(batch * splits, wide * wide, device=d.device)
    with current(d.device):
        _blocks[(triton.cdiv(batch, per_program) * splits,)](
            a, d, prepared.q, prepared.p, prepared.q_scale, prepared.p_scale, prepared.bias, prepared.weights,
            prepared.table, examples.on(d.device), partials, out, batch, length, per_program, splits, per_split,
            a.shape[1], d.shape[1], dim, a.stride(0), d.stride(0), prepared.q.stride(0), prepared.p.stride(0),
            *out.stride(), SHARED=shared, SIDE=side, BIAS=prepared.bias is not None, MANY=many, SPLIT=apart,
            WHOLE_I=a.shape[1] % c["K"] == 0, WHOLE_O=d.shape[1] % c["K"] == 0,
            # After P and Q, the products of bfloat16 or float16 inputs have at most 11 significant bits.
            PRECISION="tf32x3" if d.dtype == torch.float32 else "tf32", PRECISION_IN=precision(d.dtype), **lookup, **c,
        )  # fmt: skip
        if apart:
            _gather[(batch, triton.cdiv(dim, lookup["C"]))](
                partials, prepared.table, out, splits, dim, *out.stride(), **lookup
            )


def project_inputs(a: torch.Tensor, side: int, prepared: Prepared, *, config: Config | None = None) -> torch.Tensor:
    """Q a_t for every token: float32 [T, side]."""
    out = torch.empty(len(a), side, device=a.device)
    if len(a) == 0:
        return out
    c = dict(config or pinned("project", kind(a.dtype, side), a.device))
    del c["programs"]
    c.pop("gather", None)
    a = aligned(a)
    with current(a.device):
        _inputs[(triton.cdiv(len(a), c["M"]),)](
            a, prepared.q, prepared.q_scale, prepared.bias, out, len(a), a.shape[1], a.stride(0),
            prepared.q.stride(0), SIDE=side, BIAS=prepared.bias is not None, WHOLE_I=a.shape[1] % c["K"] == 0,
            P=len(prepared.q), PRECISION_IN=precision(a.dtype), **c,
        )  # fmt: skip
    return out


def kind(dtype: torch.dtype, side: int) -> str:
    """The kind of input, which is a key of the pinned configurations."""
    return f"{dtype_kind(dtype)}-{'narrow' if side <= 32 else 'wide'}"


def split(batch: int, length: int, block: int, programs: int) -> tuple[int, int]:
    """How many programs share the tokens of an example, and how many tokens each takes.

    A program takes whole blocks of tokens. There are enough programs to run `programs` at a time, if there are so many
    blocks. Both numbers depend on the shapes alone, so that sums repeat.
    """
    blocks = -(-length // block)
    per_split = -(-blocks // min(blocks, max(1, programs // max(1, batch))))
    return -(-blocks // per_split), per_split * block


def candidates(operation: str, kind: str) -> list[dict[str, int]]:
    """The configurations of "project" that the tuner tries, for `project_inputs` too.

    gather: 1 reads the blocks of all examples in a second launch, where the columns of a program's examples follow one
    another. 0 reads them in the epilogue of each program. It changes no bit.
    """
    return [
        {"M": m, "K": k, "num_warps": warps, "num_stages": stages, "programs": programs, "gather": gather}
        for m, warps in ((32, 8), (64, 4), (64, 8), (128, 4), (128, 8), (256, 8))
        for k in ((32, 64, 128) if kind.startswith("half") else (32, 64))
        for stages in (2, 3, 4, 5)
        for programs in (132, 264, 528)
        for gather in (0, 1)
    ]
