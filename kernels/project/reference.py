"""Plain torch version of the gradient sketch: the oracle. Shapes and dtypes: see __init__.py."""

from __future__ import annotations

from itertools import pairwise

import torch

# Examples of unequal lengths become one product of padded rectangles up to this many times their rows.
_MOST_PADDED = 8
# How many entries of the experts' blocks exist at once: 16 MiB of float32.
_ENTRIES = 1 << 22


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
    out.index_add_(1, columns, _blocks(left, right, examples).flatten(1) * weights)


def _blocks(left, right, examples) -> torch.Tensor:
    """left^T right of each example: [B, p, p], of left [T, p] and right [T, p]."""
    if examples.uniform is not None:
        shape = (len(examples), examples.uniform)
        return left.unflatten(0, shape).transpose(1, 2) @ right.unflatten(0, shape)
    if examples.longest * len(examples) <= _MOST_PADDED * len(left):
        return _padded(left, examples).transpose(1, 2) @ _padded(right, examples)
    return torch.stack([left[i:j].T @ right[i:j] for i, j in pairwise(examples.bounds)])


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
    """Add the sketch of each expert's rows. The blocks of all experts are one product of padded rectangles."""
    dtype, (tokens, width), side = out.dtype, a.shape, len(projections[0][1])
    left, right = out.new_empty(2, tokens, side)
    for (first, last), (q, p, _, _) in zip(pairwise(rows.bounds), projections, strict=True):
        if first < last:
            torch.mm(d[first:last].to(dtype), p.T, out=left[first:last])
            torch.mm(a[first:last].to(dtype), q[:, :width].T, out=right[first:last])
            if q.shape[1] > width:
                right[first:last] += q[:, width]
    most = max(1, _ENTRIES // (side * side * max(1, rows.examples)))
    for begin in range(0, len(rows), most):
        own = projections[begin : begin + most]
        end = begin + len(own)
        span = slice(rows.bounds[begin], rows.bounds[end])
        blocks = _blocks(left[span], right[span], rows.segments(begin, end))
        entries = blocks.view(len(own), rows.examples, -1) * torch.stack([weights for *_, weights in own])[:, None]
        out.index_add_(1, torch.cat([columns for _, _, columns, _ in own]), entries.transpose(0, 1).flatten(1))
