"""Influence of candidates on seeds: check the arguments, choose the implementation."""

from __future__ import annotations

import torch

from gdig.kernels.dispatch import resolve
from gdig.kernels.segments import Segments

from . import reference


def score(
    a: torch.Tensor,
    d: torch.Tensor,
    offsets: torch.Tensor | Segments,
    u: torch.Tensor,
    v: torch.Tensor,
    column_offsets: torch.Tensor | Segments,
    out: torch.Tensor,
    *,
    impl: str = "auto",
) -> None:
    """Add one layer's influence of each example on each seed to `out`.

    out[e, s] += <G_e, U_s V_s^T> = sum_t sum_{c of s} (d_t . u_c)(a_t . v_c), with G_e = sum_t d_t a_t^T.

    Args:
        a: [T, I] inputs of the layer, floating point.
        d: [T, O] output gradients, dtype of `a`.
        offsets: [B + 1] int64 on the CPU, rising from 0 to T, or Segments made of it.
        u: [O, C] the seeds' left factors side by side, dtype of `out`.
        v: [I, C], or [I + 1, C] for a layer with bias (a constant 1 is appended to a), dtype of `out`.
        column_offsets: [S + 1] int64 on the CPU, or Segments made of it; seed s owns the columns from
            column_offsets[s] up to the next one.
        out: [B, S] float32 (float64 for float64 inputs), added to in place.
        impl: "auto" or "reference".

    Raises:
        ValueError: on shapes, dtypes or devices that do not fit, or an unknown `impl`.
        ConfigError: when Triton is asked for and cannot run here.
    """
    impl = resolve("score", impl, a.device)
    examples, seeds = Segments.of(offsets), Segments.of(column_offsets)
    tokens, width = a.shape
    columns = u.shape[1]
    _expect("d", d, (tokens, d.shape[-1]))
    _expect("u", u, (d.shape[1], columns))
    if v.shape not in ((width, columns), (width + 1, columns)):
        raise ValueError(f"score: v: expected shape {(width, columns)} (or one row more, bias), got {tuple(v.shape)}")
    _expect("out", out, (len(examples), len(seeds)))
    for name, x, end in (("offsets", examples, tokens), ("column_offsets", seeds, columns)):
        if x.end != end:
            raise ValueError(f"score: {name}: expected to end at {end}, got {x.end}")
    if out.dtype != torch.promote_types(a.dtype, torch.float32):
        raise ValueError(f"score: out: expected {torch.promote_types(a.dtype, torch.float32)}, got {out.dtype}")
    reference.score(a, d, examples, u, v, seeds, out)


def _expect(name: str, x: torch.Tensor, shape: tuple[int, ...]) -> None:
    if tuple(x.shape) != shape:
        raise ValueError(f"score: {name}: expected shape {shape}, got {tuple(x.shape)}")
