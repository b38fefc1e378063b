"""Influence of candidates on seeds whose preconditioned gradients are kept whole: check the arguments, run it."""

from __future__ import annotations

import torch

from gdig.kernels.segments import Segments

from . import reference


def score_dense(
    a: torch.Tensor, d: torch.Tensor, offsets: torch.Tensor | Segments, w: torch.Tensor, out: torch.Tensor
) -> None:
    """Add one layer's influence of each example on each seed to `out`, by way of each example's own gradient.

    out[e, s] += <G_e, W_s>, with G_e = sum_t d_t a_t^T: 2 O J (T_e + S) operations an example, where `score` takes
    2 T_e (O + J) for each column of the seeds' factors. Less for narrow layers, many seeds and long examples, as long
    as W [O, J, S] fits the memory. Torch's own matrix products on every device: there is nothing here that a kernel of
    our own would fuse but the gradients of some examples, which stay in the cache.

    Args:
        a: [T, I] inputs of the layer, floating point.
        d: [T, O] output gradients, dtype of `a`.
        offsets: [B + 1] int64 on the CPU, rising from 0 to T, or Segments made of it.
        w: [O, J, S] the seeds' preconditioned gradients, J = I, or I + 1 for a layer with bias, dtype of `out`.
        out: [B, S] float32 (float64 for float64 inputs), added to in place.

    Raises:
        ValueError: on shapes or dtypes that do not fit.
    """
    examples = Segments.of(offsets)
    (tokens, width), outputs = a.shape, d.shape[1]
    if d.shape[0] != tokens or examples.end != tokens:
        raise ValueError(f"score_dense: a has {tokens} tokens, d {d.shape[0]}, offsets end at {examples.end}")
    if w.dim() != 3 or w.shape[0] != outputs or w.shape[1] not in (width, width + 1):
        raise ValueError(
            f"score_dense: w: expected [{outputs}, {width}, S] (or one column more, bias), got {tuple(w.shape)}"
        )
    if out.shape != (len(examples), w.shape[2]):
        raise ValueError(f"score_dense: out: expected {(len(examples), w.shape[2])}, got {tuple(out.shape)}")
    if out.dtype != torch.promote_types(a.dtype, torch.float32) or w.dtype != out.dtype:
        raise ValueError(f"score_dense: out: expected the dtype of w, float32 or float64, got {out.dtype}, {w.dtype}")
    reference.score_dense(a, d, examples, w, out)
