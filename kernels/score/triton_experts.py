"""Triton version of the influence scores of experts. Shapes and dtypes: see __init__.py.

One launch multiplies the tiles of all experts: a program has the rows of one expert and columns of its seeds. A second,
small kernel adds the partials of each example and seed: expert by expert, chunk by chunk, token by token. The order
does not depend on the timing, and of other examples nothing is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
import triton
import triton.language as tl

from gdig.kernels.configs import Config, current, pinned
from gdig.kernels.expert_rows import ExpertRows, on_device
from gdig.kernels.products import aligned, kind, precision
from gdig.kernels.score.prepared import PreparedExperts
from gdig.kernels.score.triton import chunk_sums

# Most numbers of partials at once (64 MiB). The experts of a launch are as many as fit.
_PARTIALS = 1 << 24


@triton.jit(do_not_specialize=["row_tiles", "column_tiles", "seeds"])
def _products(
    a, d, u, v, scale, bias, partials, tiles, chunks, i_width, o_width, row_tiles, column_tiles, seeds,
    a_stride, d_stride, u_stride, v_stride,
    BIAS: tl.constexpr, CHUNK: tl.constexpr, WHOLE_I: tl.constexpr, WHOLE_O: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, BAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Store a tile of (d_t . u_c)(a_t . v_c) of an expert, summed over CHUNK columns: of each token, its chunks."""
    pid = tl.program_id(0)
    band = pid // (BAND * column_tiles)
    high = tl.minimum(row_tiles - band * BAND, BAND)
    within = pid % (BAND * column_tiles)
    i = band * BAND + within % high
    j = within // high

    # int64: the first row, the expert's last row + 1, the expert, and where the partials of the first row begin.
    at = tiles + i * 4
    first, last, expert = tl.load(at).to(tl.int32), tl.load(at + 1).to(tl.int32), tl.load(at + 2).to(tl.int32)
    zero, end = tl.load(chunks + expert * seeds), tl.load(chunks + (expert + 1) * seeds)
    # Experts have different numbers of columns, and the grid has programs for the most.
    if zero * CHUNK + j * N >= end * CHUNK:
        return
    t = first + tl.arange(0, M)
    c = zero * CHUNK + j * N + tl.arange(0, N)
    sums = chunk_sums(
        a, d, u, v, scale, bias, t, c, last, end * CHUNK, i_width, o_width, a_stride, d_stride, u_stride, v_stride,
        BIAS, CHUNK, WHOLE_I, WHOLE_O, M, N, K, PRECISION,
    )  # fmt: skip
    h = j * (N // CHUNK) + tl.arange(0, N // CHUNK)
    # Inside a tile int32 is enough, and takes half the registers.
    place = tl.arange(0, M)[:, None] * (end - zero) + h[None, :]
    inside = (t < last)[:, None] & (h < end - zero)[None, :]
    tl.store(partials + tl.load(at + 3) + place, sums, mask=inside)


@triton.jit(do_not_specialize=["first_expert", "last_expert", "examples", "seeds", "most"])
def _gather(
    partials, bounds, bases, chunks, out, first_expert, last_expert, examples, seeds, most, row, column,
    G: tl.constexpr, S: tl.constexpr,
):  # fmt: skip
    """Add an example's partials of S seeds: expert by expert, of each all tokens of a chunk, then those of the next."""
    e = tl.program_id(0)
    s = tl.program_id(1) * S + tl.arange(0, S)
    total = tl.zeros([G, S], tl.float32)
    for expert in range(first_expert, last_expert):
        own = bounds + expert * (examples + 1)
        zero, width = tl.load(own), tl.load(chunks + (expert + 1) * seeds) - tl.load(chunks + expert * seeds)
        first, last = tl.load(own + e) - zero, tl.load(own + e + 1) - zero
        begin = tl.load(chunks + expert * seeds)
        start = tl.load(chunks + expert * seeds + s, mask=s < seeds, other=0) - begin
        end = tl.load(chunks + expert * seeds + s + 1, mask=s < seeds, other=0) - begin
        at = partials + tl.load(bases + expert)
        for n in range(most):
            h = start + n
            for t in range(first, last, G):
                g = t + tl.arange(0, G)
                inside = (g < last)[:, None] & (h < end)[None, :]
                total += tl.load(at + g.to(tl.int64)[:, None] * width + h[None, :], mask=inside, other=0.0)
    place = out + e.to(tl.int64) * row + s.to(tl.int64) * column
    tl.store(place, tl.load(place, mask=s < seeds, other=0.0) + tl.sum(total, 0), mask=s < seeds)


def score_experts(
    a: torch.Tensor, d: torch.Tensor, rows: ExpertRows, prepared: PreparedExperts, out: torch.Tensor, *,
    config: Config | None = None,
) -> None:  # fmt: skip
    """Add the scores of all experts' rows to out [B, S]."""
    joint, first_chunks = prepared.joint, prepared.first_chunks
    if not rows.examples or not len(joint.u):
        return
    c = dict(config or pinned("score_experts", kind(a.dtype), a.device))
    a, d = aligned(a), aligned(d)
    seeds, device = prepared.seeds, a.device
    chunks = [j - i for i, j in pairwise(first_chunks)]
    sizes = [(j - i) * n for (i, j), n in zip(pairwise(rows.bounds), chunks, strict=True)]
    for begin, end in _launches(sizes):
        # Where the partials of each expert begin. Experts before `begin` have none here.
        bases = [0] * begin + [sum(sizes[begin:n]) for n in range(begin, end)]
        table = [
            (first, last, n, bases[n] + (first - rows.bounds[n]) * chunks[n])
            for first, last, n in rows.tiles(c["M"], (n for n in range(begin, end) if chunks[n]))
        ]
        if not table:
            continue
        row_tiles, column_tiles = len(table), triton.cdiv(max(chunks[begin:end]) * joint.chunk, c["N"])
        partials = torch.empty(sum(sizes[begin:end]), device=device)
        with current(device):
            _products[(row_tiles * column_tiles,)](
                a, d, joint.u, joint.v, joint.scale, joint.bias, partials,
                on_device(torch.tensor(table), device), joint.chunks, a.shape[1], d.shape[1],
                row_tiles, column_tiles, seeds, a.stride(0), d.stride(0), joint.u.stride(0), joint.v.stride(0),
                BIAS=joint.bias is not None, CHUNK=joint.chunk, WHOLE_I=a.shape[1] % c["K"] == 0,
                WHOLE_O=d.shape[1] % c["K"] == 0, PRECISION=precision(a.dtype), **c,
            )  # fmt: skip
            _gather[(rows.examples, triton.cdiv(seeds, 32))](
                partials, rows.on(device), on_device(torch.tensor(bases), device), joint.chunks, out, begin, end,
                rows.examples, seeds, joint.most, *out.stride(), G=4, S=32, num_warps=1,
            )  # fmt: skip


def _launches(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield runs of experts whose partials fit `_PARTIALS`, or of one expert. `sizes`: the partials of each."""
    begin = 0
    while begin < len(sizes):
        end = begin + 1
        while end < len(sizes) and sum(sizes[begin : end + 1]) <= _PARTIALS:
            end += 1
        yield begin, end
        begin = end


def candidates(operation: str, kind: str) -> list[dict[str, int]]:
    """The configurations of "score_experts" that the tuner tries: tiles that leave registers for the look-up."""
    half = kind == "half"
    tiles = [(128, 128, 8), (64, 128, 4), (64, 128, 8), (128, 64, 4), (128, 64, 8)]
    return [
        {"M": m, "N": n, "K": k, "BAND": band, "num_warps": warps, "num_stages": stages}
        for m, n, warps in (tiles if half else [(64, 64, 4), (64, 64, 8), (128, 64, 8)])
        for k in ((32, 64, 128) if half else (16, 32))
        for band in (4, 8, 16)
        for stages in (2, 3, 4, 5)
    ]
