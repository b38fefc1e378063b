"""Other ways to compute what the kernels compute, timed beside them.

A way that a card shows to be faster can replace the kernel.

Each is compared with the reference before it is timed, so that none is fast because it is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch

from benches.gpu_parts.timing import Clock
from gdig import ops
from gdig.ops import Segments

L2_NUMBERS = 1 << 24
"""Half-precision numbers of a block that stays in the L2 cache: 32 of the 50 MiB of an H100."""


def measure_alternatives(device: torch.device, *, quick: bool = False) -> list[dict[str, Any]]:
    """Scores by dense gradients and by column blocks, and the sketch by torch's own products, beside the kernels."""
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    tokens, width, outputs, length = (512, 48, 32, 104) if quick else (16_384, 3072, 768, 104)
    clock = Clock(device, 2 if quick else 15)
    lines = tokens // length
    examples = Segments(torch.arange(lines + 1) * length)
    a, d = (torch.randn(lines * length, w, device=device, dtype=dtype) for w in (width, outputs))
    rows = []
    for seeds, rank in ((2, 4),) if quick else ((32, 32), (64, 32), (256, 32)):
        rows += _scores(clock, a, d, examples, seeds, rank)
    rows += _sketch(clock, a, d, examples, *((8, 64) if quick else (32, 512)))
    for row in rows:
        print(f"{row['what']}: {row['microseconds']:.0f} us, kernel {row['kernel_microseconds']:.0f} us, "
              f"error {row['error']:.1e}", flush=True)  # fmt: skip
    return rows


def _scores(
    clock: Clock, a: torch.Tensor, d: torch.Tensor, examples: Segments, seeds: int, rank: int
) -> list[dict[str, Any]]:
    device, dtype = a.device, a.dtype
    width, outputs, lines, length = a.shape[1], d.shape[1], len(examples), examples.longest
    u, v = (torch.randn(n, seeds * rank, device=device) for n in (outputs, width))
    columns = Segments(torch.arange(seeds + 1) * rank)
    prepared = ops.prepare_factors(u, v, columns, width, dtype)
    w = torch.stack([u[:, i:j] @ v[:, i:j].T for i, j in pairwise(columns.bounds)])  # [S, O, I]
    flat = w.to(dtype).permute(1, 2, 0).reshape(outputs * width, seeds).contiguous()
    halves = u.to(dtype), v.to(dtype)
    x, y = a.view(lines, length, width), d.view(lines, length, outputs)
    exact = torch.zeros(lines, seeds, device=device)
    ops.score(a.float(), d.float(), examples, u, v, columns, exact, impl="reference")

    def kernel() -> torch.Tensor:
        out = torch.zeros(lines, seeds, device=device)
        ops.score(a, d, examples, u, v, columns, out, prepared=prepared)
        return out

    def dense() -> torch.Tensor:
        """Gradients of some rows of the layer at a time, which stay in the L2 cache."""
        out = torch.zeros(lines, seeds, device=device)
        step = max(1, L2_NUMBERS // (lines * width))
        for o in range(0, outputs, step):
            gradients = y[:, :, o : o + step].transpose(1, 2) @ x
            out += gradients.flatten(1) @ flat[o * width : (o + step) * width]
        return out

    def by_columns() -> torch.Tensor:
        """Two products and their sum, for some columns at a time."""
        step = max(1, L2_NUMBERS // (2 * len(a)) // rank)
        scores = []
        for s in range(0, seeds, step):
            these = slice(s * rank, min(s + step, seeds) * rank)
            product = (d @ halves[0][:, these]).float() * (a @ halves[1][:, these])
            scores.append(product.view(lines, length, -1, rank).sum((1, 3)))
        return torch.cat(scores, 1)

    name = f"score {seeds} x {rank}"
    return [_row(clock, f"{name}, {how}", run, kernel, exact)
            for how, run in (("dense gradients", dense), ("column blocks", by_columns))]  # fmt: skip


def _sketch(
    clock: Clock, a: torch.Tensor, d: torch.Tensor, examples: Segments, side: int, dim: int
) -> list[dict[str, Any]]:
    device, dtype = a.device, a.dtype
    lines, length = len(examples), examples.longest
    q, p = (torch.randn(side, x.shape[1], device=device).sign() for x in (a, d))
    columns = torch.randint(0, dim, (side * side,), device=device)
    weights = torch.ones(side * side, device=device)
    prepared = ops.prepare_projection(q, p, columns, weights, a.shape[1], dim, dtype)
    left, right = p.to(dtype).T.contiguous(), q.to(dtype).T.contiguous()
    exact = torch.zeros(lines, dim, device=device)
    ops.project(a.float(), d.float(), examples, q, p, columns, weights, exact, impl="reference")

    def kernel() -> torch.Tensor:
        out = torch.zeros(lines, dim, device=device)
        ops.project(a, d, examples, q, p, columns, weights, out, prepared=prepared)
        return out

    def products() -> torch.Tensor:
        out = torch.zeros(lines, dim, device=device)
        x, y = (d @ left).view(lines, length, side).float(), (a @ right).view(lines, length, side).float()
        return out.index_add_(1, columns, (x.transpose(1, 2) @ y).flatten(1) * weights)

    return [_row(clock, f"project, side {side}, torch's products", products, kernel, exact)]


def _row(
    clock: Clock, what: str, run: Callable[[], torch.Tensor], kernel: Callable[[], torch.Tensor], exact: torch.Tensor
) -> dict[str, Any]:
    error = float((run() - exact).abs().max() / exact.abs().max())
    return {
        "what": what, "microseconds": clock.median(run) * 1e6, "kernel_microseconds": clock.median(kernel) * 1e6,
        "error": error, "kernel_error": float((kernel() - exact).abs().max() / exact.abs().max()),
    }  # fmt: skip
