"""Plain torch version of the gradient sketch: the oracle. Shapes and dtypes: see __init__.py."""

from __future__ import annotations

from itertools import pairwise

import torch


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
    else:
        blocks = torch.stack([left[i:j].T @ right[i:j] for i, j in pairwise(examples.bounds)])
    out.index_add_(1, columns, blocks.flatten(1) * weights)


def project_inputs(a, q, dtype) -> torch.Tensor:
    """Q a_t of every token: [T, p]."""
    right = a.to(dtype) @ q[:, : a.shape[1]].T
    return right + q[:, -1] if q.shape[1] > a.shape[1] else right
