"""Triton version of the loss and its gradient. Shapes and dtypes: see __init__.py; how it works: kernels/README.md.

A program takes a row of logits. It reads the row once for the sum of the exponentials. It reads the row once more for
the gradient, from the L2 cache where that holds the row. The gradient is written in the dtype of the logits. No float32
row goes to memory.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from gdig.kernels.configs import Config, current, pinned
from gdig.kernels.products import kind


@triton.jit
def _rows(logits, labels, targets, weights, nll, gradient, words, stride, N: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    x = logits + row * stride
    # Each lane keeps the largest of its own logits, and the sum of exponentials below it.
    largest = tl.full([N], float("-inf"), tl.float32)
    total = tl.zeros([N], tl.float32)
    for start in range(0, words, N):
        c = start + tl.arange(0, N)
        z = tl.load(x + c, mask=c < words, other=float("-inf")).to(tl.float32)
        new = tl.maximum(largest, z)
        # A lane that has seen nothing but -inf has no difference to take.
        below = tl.where(new == float("-inf"), 0.0, new)
        total = total * tl.exp(largest - below) + tl.exp(z - below)
        largest = new
    highest = tl.max(largest, 0)
    # A lane of NaN alone has -inf as its largest too; its total is NaN and stays so.
    total = tl.sum(total * tl.where(largest == float("-inf"), 1.0, tl.exp(largest - highest)), 0)
    own = tl.load(x + tl.load(labels + row)).to(tl.float32)
    tl.store(nll + row, tl.log(total) - (own - highest))
    target = tl.load(targets + row)
    weight = tl.load(weights + row)
    for start in range(0, words, N):
        c = start + tl.arange(0, N)
        z = tl.load(x + c, mask=c < words, other=float("-inf")).to(tl.float32)
        p = tl.exp(z - highest) / total
        p = weight * tl.where(c == target, p - 1.0, p)
        tl.store(gradient + row * words + c, p.to(gradient.dtype.element_ty), mask=c < words)


def cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor,
    *,
    config: Config | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return -log p[label], and weight (p - onehot(target))."""
    rows, words = logits.shape
    if logits.stride(1) != 1:
        logits = logits.contiguous()
    nll = torch.empty(rows, dtype=torch.float32, device=logits.device)
    gradient = torch.empty(rows, words, dtype=logits.dtype, device=logits.device)
    if rows:
        c = dict(config or pinned("cross_entropy", kind(logits.dtype), logits.device))
        with current(logits.device):
            _rows[(rows,)](
                logits, labels, targets, weights.to(torch.float32), nll, gradient, words, logits.stride(0), **c
            )  # fmt: skip
    return nll.double(), gradient


def candidates(operation: str, kind: str) -> list[dict[str, int]]:
    """The configurations of "cross_entropy" that the tuner tries. The order of the sum depends on N alone."""
    return [
        {"N": n, "num_warps": warps, "num_stages": stages}
        for n in (1024, 2048, 4096, 8192)
        for warps in (4, 8, 16)
        for stages in (1, 2, 3)
    ]
