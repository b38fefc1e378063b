"""Plain torch version of the gradient sketch: the oracle. Shapes and dtypes: see __init__.py."""

from __future__ import annotations

from itertools import pairwise

import torch


def project(a, d, offsets, q, p, columns, signs, out) -> None:
    """Add R vec(P G_e Q^T) of each example to out [B, dim]."""
    dtype = out.dtype
    width = a.shape[1]
    left = d.to(dtype) @ p.T  # [T, p]
    right = a.to(dtype) @ q[:, :width].T  # [T, p]
    if q.shape[1] > width:
        right = right + q[:, width]
    lengths = offsets.diff()
    if len(lengths) and bool((lengths == lengths[0]).all()):
        shape = (len(lengths), int(lengths[0]))
        blocks = left.unflatten(0, shape).transpose(1, 2) @ right.unflatten(0, shape)  # [B, p, p]
    else:
        bounds = offsets.tolist()
        blocks = torch.stack([left[i:j].T @ right[i:j] for i, j in pairwise(bounds)])
    out.index_add_(1, columns, blocks.flatten(1) * signs)
