"""Influence of candidates on seeds whose preconditioned gradients are not factored: check the arguments, run it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gdig.kernels.expert_rows import ExpertRows
from gdig.kernels.segments import Segments

from . import reference


def score_dense(
    a: torch.Tensor,
    d: torch.Tensor,
    offsets: torch.Tensor | Segments,
    w: torch.Tensor,
    out: torch.Tensor,
    *,
    scale: torch.Tensor | None = None,
) -> None:
    """Add one layer's influence of each example on each seed to `out`, through each example's gradient.

    out[e, s] += <G_e, W_s>, with G_e = sum_t d_t a_t^T. An example takes 2 O J (T_e + S) operations; `score` takes
    2 T_e (O + J) for each column of the seeds' factors. So this is faster for many columns, if W [S, O, J] fits the
    memory.

    torch's matrix products run on every device. A kernel of our own could fuse only the gradients of some examples,
    which stay in the cache anyway.

    Args:
        a: [T, I] inputs of the layer, floating point.
        d: [T, O] output gradients, dtype of `a`.
        offsets: [B + 1] int64 on the CPU, rising from 0 to T, or Segments made of it.
        w: [S, O, J] the seeds' preconditioned gradients, dtype of `out`. J = I, or I + 1 for a layer with bias. Or
            float16, divided by `scale` (`halved`). Or bfloat16 for `out` in float32. Then a, d, G_e and the product of
            each block of rows are rounded too, each by at most 2^-8 of a number, independently. So a score is off by
            about 2^-8 of the root of the sum of its squared terms. It is off by at most 6 2^-8 of the sum of the sizes
            |d_t||a_t||W_s|, entry by entry.
        out: [B, S] the sums, float32 (float64 for float64 inputs). Changed.
        scale: [S] of the dtype of `out`, for w of float16.

    Raises:
        ValueError: when shapes or dtypes do not fit one another.
    """
    examples = Segments.of(offsets)
    (tokens, width), outputs = a.shape, d.shape[1]
    if d.shape[0] != tokens or examples.end != tokens:
        raise ValueError(
            f"score_dense: expected a, d and offsets of the same tokens, got {tokens}, {d.shape[0]} and {examples.end}"
        )
    if w.dim() != 3 or w.shape[1] != outputs or w.shape[2] not in (width, width + 1):
        raise ValueError(
            f"score_dense: w: expected [S, {outputs}, {width}] (or one column more, bias), got {tuple(w.shape)}"
        )
    if out.shape != (len(examples), len(w)):
        raise ValueError(f"score_dense: out: expected {(len(examples), len(w))}, got {tuple(out.shape)}")
    accumulated = torch.promote_types(a.dtype, torch.float32)
    expected = _expected_dtype(w, scale, accumulated)
    if out.dtype != accumulated or w.dtype != expected:
        raise ValueError(
            f"score_dense: out and w: expected {accumulated} and {expected}, got {out.dtype} and {w.dtype}"
        )
    if scale is not None and (scale.shape != (len(w),) or scale.dtype != accumulated):
        raise ValueError(
            f"score_dense: scale: expected {accumulated} [{len(w)}], got {scale.dtype} {tuple(scale.shape)}"
        )
    reference.score_dense(a, d, examples, w, scale, out)


def score_dense_experts(
    a: torch.Tensor,
    d: torch.Tensor,
    rows: ExpertRows,
    w: Sequence[torch.Tensor | None],
    out: torch.Tensor,
    *,
    scale: Sequence[torch.Tensor | None],
) -> None:
    """Add the influence of each example on each seed in all experts of a matrix to `out`, through its gradients.

    Args:
        a: [R, I] inputs of the experts' rows, floating point. d: [R, O] output gradients, dtype of `a`.
        rows: whose the rows are.
        w: for each expert W [S, O, J], as for `score_dense`; None for an expert that has no part in the scores.
        out: [B, S] the sums, as for `score_dense`. Changed.
        scale: for each expert the scale [S] of a W of float16, or None.

    Raises:
        ValueError: when shapes or dtypes do not fit one another.
    """
    (tokens, width), outputs = a.shape, d.shape[1]
    if d.shape[0] != tokens or rows.end != tokens or not len(rows) == len(w) == len(scale):
        raise ValueError(
            f"score_dense: expected a, d and offsets of the same rows, and W of {len(rows)} experts, got {tokens}, "
            f"{d.shape[0]} and {rows.end}, and W of {len(w)}"
        )
    accumulated = torch.promote_types(a.dtype, torch.float32)
    for own, own_scale in zip(w, scale, strict=True):
        if own is None:
            continue
        expected = _expected_dtype(own, own_scale, accumulated)
        if own.dim() != 3 or own.shape[1:] not in ((outputs, width), (outputs, width + 1)) or own.dtype != expected:
            raise ValueError(
                f"score_dense: w: expected {expected} [S, {outputs}, {width}] (or one column more, bias), got "
                f"{own.dtype} {tuple(own.shape)}"
            )
        if out.shape != (rows.examples, len(own)) or out.dtype != accumulated:
            raise ValueError(
                f"score_dense: out: expected {accumulated} {(rows.examples, len(own))}, got {out.dtype} "
                f"{tuple(out.shape)}"
            )
    reference.score_dense_experts(a, d, rows, w, scale, out)


def _expected_dtype(w: torch.Tensor, scale: torch.Tensor | None, accumulated: torch.dtype) -> torch.dtype:
    """The dtype that W may have: that of the sums, float16 with a scale, bfloat16 for sums in float32."""
    if scale is not None:
        return torch.float16
    return torch.bfloat16 if w.dtype == torch.bfloat16 and accumulated == torch.float32 else accumulated


def halved(w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round a matrix to float16, divided by a power of two that brings its largest entry to between 2^13 and 2^14.

    The largest entry lies between 2^-100 and 2^100. Then an entry is off by at most 2^-11 of its size, or by 2^-38 of
    the largest entry if that is more. So a score <G_e, W_s> is off by at most the sum of two terms: 2^-11 of the sum of
    the sizes of its terms, and 2^-38 max |W_s| sum |G_e|.

    Returns:
        half: float16, the shape of w. scale: a number of the dtype of w, the power of two.
    """
    largest = w.abs().amax() if w.numel() else w.new_zeros(())
    exponent = torch.where(largest.isfinite() & (largest > 0), torch.frexp(largest).exponent - 14, 0).clamp(-120, 120)
    return torch.ldexp(w, -exponent).half(), torch.ldexp(torch.ones_like(largest), exponent)
