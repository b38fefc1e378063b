"""Sketch of per-example gradients: check the arguments, choose the implementation."""

from __future__ import annotations

import torch

from . import reference


def project(
    a: torch.Tensor,
    d: torch.Tensor,
    offsets: torch.Tensor,
    q: torch.Tensor,
    p: torch.Tensor,
    columns: torch.Tensor,
    signs: torch.Tensor,
    out: torch.Tensor,
    *,
    impl: str = "auto",
) -> None:
    """Add one layer's sketch of each example to `out`.

    sketch_e[columns[k]] += signs[k] * (P G_e Q^T).flatten()[k], with G_e = sum_t d_t a_t^T.

    Args:
        a: [T, I] inputs of the layer, floating point.
        d: [T, O] output gradients, dtype of `a`.
        offsets: [B + 1] int64 on the CPU, rising from 0 to T.
        q: [p, I], or [p, I + 1] for a layer with bias (a constant 1 is appended to a), dtype of `out`.
        p: [p, O], dtype of `out`.
        columns: [p * p] int64 in 0..dim-1. signs: [p * p], +-1, dtype of `out`.
        out: [B, dim] float32 (float64 for float64 inputs), added to in place.
        impl: "auto" or "reference".

    Raises:
        ValueError: on shapes, dtypes or devices that do not fit, or an unknown `impl`.
    """
    if impl not in ("auto", "reference"):
        raise ValueError(f"project: impl: expected 'auto' or 'reference', got {impl!r}")
    tokens, width = a.shape
    side = p.shape[0]
    _expect("d", d, (tokens, d.shape[-1]))
    _expect("p", p, (side, d.shape[1]))
    _expect("columns", columns, (side * side,))
    _expect("signs", signs, (side * side,))
    if q.shape not in ((side, width), (side, width + 1)):
        raise ValueError(f"project: q: expected shape {(side, width)} (or one column more, bias), got {tuple(q.shape)}")
    _expect("out", out, (len(offsets) - 1, out.shape[-1]))
    if offsets.device.type != "cpu" or int(offsets[-1]) != tokens:
        raise ValueError(f"project: offsets: expected a CPU tensor that ends at {tokens}, got {offsets[-1:].tolist()}")
    if out.dtype != torch.promote_types(a.dtype, torch.float32):
        raise ValueError(f"project: out: expected {torch.promote_types(a.dtype, torch.float32)}, got {out.dtype}")
    reference.project(a, d, offsets, q, p, columns, signs, out)


def _expect(name: str, x: torch.Tensor, shape: tuple[int, ...]) -> None:
    if tuple(x.shape) != shape:
        raise ValueError(f"project: {name}: expected shape {shape}, got {tuple(x.shape)}")
