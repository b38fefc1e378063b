"""Influence of candidates on seeds whose preconditioned gradients are not factored: check the arguments, run it."""

from __future__ import annotations

import torch

from gdig.kernels.segments import Segments

from . import reference


def score_dense(
    a: torch.Tensor, d: torch.Tensor, offsets: torch.Tensor | Segments, w: torch.Tensor, out: torch.Tensor
) -> None:
    """Add one layer's influence of each example on each seed to `out`, through each example's gradient.

    out[e, s] += <G_e, W_s>, with G_e = sum_t d_t a_t^T. An example takes 2 O J (T_e + S) operations; `score` takes
    2 T_e (O + J) for each column of the seeds' factors. So this is faster for narrow layers, many seeds and long
    examples, if W [O, J, S] fits the memory.

    torch's matrix products run on every device. A kernel of our own could fuse only the gradients of some examples,
    which stay in the cache anyway.

    Args:
        a: [T, I] inputs of the layer, floating point.
        d: [T, O] output gradients, dtype of `a`.
        offsets: [B + 1] int64 on the CPU, rising from 0 to T, or Segments made of it.
        w: [O, J, S] the seeds' preconditioned gradients, dtype of `out`. J = I, or I + 1 for a layer with bias.
        out: [B, S] the sums, float32 (float64 for float64 inputs). Changed.

    Raises:
        ValueError: when shapes or dtypes do not fit one another.
    """
    examples = Segments.of(offsets)
    (tokens, width), outputs = a.shape, d.shape[1]
    if d.shape[0] != tokens or examples.end != tokens:
        raise ValueError(
            f"score_dense: expected a, d and offsets of the same tokens, got {tokens}, {d.shape[0]} and {examples.end}"
        )
    if w.dim() != 3 or w.shape[0] != outputs or w.shape[1] not in (width, width + 1):
        raise ValueError(
            f"score_dense: w: expected [{outputs}, {width}, S] (or one column more, bias), got {tuple(w.shape)}"
        )
    if out.shape != (len(examples), w.shape[2]):
        raise ValueError(f"score_dense: out: expected {(len(examples), w.shape[2])}, got {tuple(out.shape)}")
    if out.dtype != torch.promote_types(a.dtype, torch.float32) or w.dtype != out.dtype:
        raise ValueError(
            f"score_dense: out and w: expected {torch.promote_types(a.dtype, torch.float32)}, "
            f"got {out.dtype} and {w.dtype}"
        )
    reference.score_dense(a, d, examples, w, out)
