"""Sketch of per-example gradients: check the arguments, choose the implementation."""

from __future__ import annotations

import torch

from gdig.kernels.dispatch import resolve
from gdig.kernels.segments import Segments

from . import reference


def project(
    a: torch.Tensor,
    d: torch.Tensor,
    offsets: torch.Tensor | Segments,
    q: torch.Tensor | None,
    p: torch.Tensor,
    columns: torch.Tensor,
    weights: torch.Tensor,
    out: torch.Tensor,
    *,
    impl: str = "auto",
) -> None:
    """Add one layer's sketch of each example to `out`.

    sketch_e[columns[k]] += weights[k] * (P G_e Q^T).flatten()[k], with G_e = sum_t d_t a_t^T.

    Args:
        a: [T, I] inputs of the layer, floating point; or, without q, what `project_inputs` made of them.
        d: [T, O] output gradients, dtype of `a`.
        offsets: [B + 1] int64 on the CPU, rising from 0 to T, or Segments made of it.
        q: [p, I], or [p, I + 1] for a layer with bias (a constant 1 is appended to a), dtype of `out`. None: a is
            Q a_t already, [T, p] in the dtype of `out` (layers that read the same input share it).
        p: [p, O], dtype of `out`.
        columns: [p * p] int64 in 0..dim-1. weights: [p * p], the sign of the sparse map, times a scale where the
            sketch has one (`sketch_space="fisher"`), dtype of `out`.
        out: [B, dim] float32 (float64 for float64 inputs), added to in place.
        impl: "auto" or "reference".

    Raises:
        ValueError: on shapes, dtypes or devices that do not fit, or an unknown `impl`.
        ConfigError: when Triton is asked for and cannot run here.
    """
    impl = resolve("project", impl, a.device)
    examples = Segments.of(offsets)
    tokens, width = a.shape
    side = p.shape[0]
    _expect("d", d, (tokens, d.shape[-1]))
    _expect("p", p, (side, d.shape[1]))
    _expect("columns", columns, (side * side,))
    _expect("weights", weights, (side * side,))
    if q is None:
        _expect("a", a, (tokens, side))
    elif q.shape not in ((side, width), (side, width + 1)):
        raise ValueError(f"project: q: expected shape {(side, width)} (or one column more, bias), got {tuple(q.shape)}")
    _expect("out", out, (len(examples), out.shape[-1]))
    if examples.end != tokens:
        raise ValueError(f"project: offsets: expected to end at {tokens}, got {examples.end}")
    if out.dtype != torch.promote_types(d.dtype, torch.float32):
        raise ValueError(f"project: out: expected {torch.promote_types(d.dtype, torch.float32)}, got {out.dtype}")
    reference.project(a, d, examples, q, p, columns, weights, out)


def project_inputs(a: torch.Tensor, q: torch.Tensor, *, dtype: torch.dtype) -> torch.Tensor:
    """Q a_t for every token: [T, p], for layers that read the same input.

    Args:
        a: [T, I] floating point.
        q: [p, I], or [p, I + 1] for layers with bias, in `dtype`.
        dtype: of the result, float32 (float64 for float64 inputs).
    """
    right = a.to(dtype) @ q[:, : a.shape[1]].T
    return right + q[:, -1] if q.shape[1] > a.shape[1] else right


def _expect(name: str, x: torch.Tensor, shape: tuple[int, ...]) -> None:
    if tuple(x.shape) != shape:
        raise ValueError(f"project: {name}: expected shape {shape}, got {tuple(x.shape)}")
