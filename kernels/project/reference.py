"""Plain torch version of the gradient sketch: the oracle. Shapes and dtypes: see __init__.py."""

from __future__ import annotations

from itertools import pairwise

import torch

# Examples of unequal lengths become one product of padded rectangles up to this many times their rows.
_MOST_PADDED = 8


def project(a, d, examples, q, p, columns, weights, out) -> None:
    """Add R vec(P G_e Q^T) of each example to out [B, dim]."""
    dtype = out.dtype
    left = d.to(dtype) @ p.T  # [T, p]
    right = a
    if q is not None:
        width = a.shape[1]
        right = a.to(dtype) @ q[:, :width].T  # [T, p]
        if q.shape[1] > width:
            right = right + q[:, width]
    if examples.uniform is not None:
        shape = (len(examples), examples.uniform)
        blocks = left.unflatten(0, shape).transpose(1, 2) @ right.unflatten(0, shape)  # [B, p, p]
    elif examples.longest * len(examples) <= _MOST_PADDED * len(left):
        blocks = _padded(left, examples).transpose(1, 2) @ _padded(right, examples)
    else:
        blocks = torch.stack([left[i:j].T @ right[i:j] for i, j in pairwise(examples.bounds)])
    out.index_add_(1, columns, blocks.flatten(1) * weights)


def _padded(x, examples) -> torch.Tensor:
    """x [T, p] as [B, L, p], with zeros behind the rows of each example."""
    lines, length = len(examples), examples.longest
    out = x.new_zeros(lines * length, x.shape[1])
    return out.index_copy_(0, examples.padded.to(x.device), x).unflatten(0, (lines, length))


def project_inputs(a, q, dtype) -> torch.Tensor:
    """Q a_t of every token: [T, p]."""
    right = a.to(dtype) @ q[:, : a.shape[1]].T
    return right + q[:, -1] if q.shape[1] > a.shape[1] else right


def project_experts(a, d, rows, projections, out) -> None:
    """Add the sketch of each expert's rows, expert by expert."""
    for (first, last), examples, (q, p, columns, weights) in zip(
        pairwise(rows.bounds), rows.of_experts, projections, strict=True
    ):
        if first < last:
            project(a[first:last], d[first:last], examples, q, p, columns, weights, out)
