"""Sketch of per-example gradients: check the arguments, choose the implementation."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gdig.errors import ConfigError
from gdig.kernels.dispatch import resolve
from gdig.kernels.expert_rows import ExpertRows
from gdig.kernels.project.prepared import Prepared, PreparedExperts
from gdig.kernels.project.prepared import prepare as _prepare
from gdig.kernels.project.prepared import prepare_experts as _prepare_experts
from gdig.kernels.segments import Segments

from . import reference

# The largest side p of a p x p block that fits the registers in "triton".
LARGEST_SIDE = 64


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
    prepared: Prepared | None = None,
) -> None:
    """Add one layer's sketch of each example to `out`.

    sketch_e[columns[k]] += weights[k] * (P G_e Q^T).flatten()[k], with G_e = sum_t d_t a_t^T.

    Args:
        a: [T, I] inputs of the layer, floating point. Without q: Q a_t, the result of `project_inputs`, [T, p] in the
            dtype of `out`; layers that read the same input share it.
        d: [T, O] output gradients, dtype of `a`.
        offsets: [B + 1] int64 on the CPU, rising from 0 to T, or Segments made of it.
        q: [p, I], or [p, I + 1] for a layer with bias (a constant 1 is appended to a), dtype of `out`. None when a is
            Q a_t.
        p: [p, O], dtype of `out`.
        columns: [p * p] int64 in 0..dim-1.
        weights: [p * p], the signs of the sparse map, times a scale for `sketch_space="fisher"`, dtype of `out`.
        out: [B, dim] the sums, float32 (float64 for float64 inputs). Changed.
        impl: "auto", "triton" or "reference". "auto" is the reference for a side above 64.
        prepared: the result of `prepare_projection` for q, p, columns, weights and this dtype of `d`. Without it,
            "triton" prepares them at each call, which waits for the device. "reference" does not use it.

    For bfloat16 and float16 activations, "triton" rounds P and Q to their dtype; kernels/README.md has the error.

    Raises:
        ValueError: when shapes, dtypes or devices do not fit one another, or `impl` is unknown.
        ConfigError: when Triton is asked for and cannot run here.
    """
    impl = _resolve(impl, d.device, d.dtype, p.shape[0])
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
    if impl == "triton":
        if q is not None and a.dtype != d.dtype:
            raise ValueError(f"project: a: expected {d.dtype}, the dtype of d, got {a.dtype}")
        from . import triton

        if prepared is None:
            # When a is Q a_t, Q is not used.
            q_or_none = p.new_zeros(side, 0) if q is None else q
            prepared = _prepare(q_or_none, p, columns, weights, 0 if q is None else width, out.shape[1], d.dtype)
        if not prepared.fits(side, None if q is None else a, q is not None and q.shape[1] > width, d, out):
            raise ValueError("project: prepared: expected what prepare_projection made of these, for this dtype of d")
        return triton.project(a, d, examples, side, prepared, out, shared=q is None)
    return reference.project(a, d, examples, q, p, columns, weights, out)


def project_experts(
    a: torch.Tensor,
    d: torch.Tensor,
    rows: ExpertRows,
    projections: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]],
    out: torch.Tensor,
    *,
    impl: str = "auto",
    prepared: PreparedExperts | None = None,
) -> None:
    """Add the sketch of each example in all experts of a matrix to `out`: the sum of their sketches.

    Args:
        a: [R, I] inputs of the experts' rows, floating point. d: [R, O] output gradients, dtype of `a`.
        rows: whose the rows are.
        projections: q, p, columns and weights of each expert, as for `project`.
        out: [B, dim] the sums, float32 (float64 for float64 inputs). Changed.
        impl: as for `project`.
        prepared: the result of `prepare_expert_projections` for these projections and this dtype; as for `project`.

    Raises:
        ValueError, ConfigError: as for `project`.
    """
    (tokens, width), side = a.shape, projections[0][1].shape[0]
    impl = _resolve(impl, d.device, d.dtype, side)
    _expect("d", d, (tokens, d.shape[-1]))
    if rows.end != tokens or len(projections) != len(rows):
        raise ValueError(
            f"project: expected {tokens} rows, and projections of {len(rows)} experts, got offsets to {rows.end} and "
            f"projections of {len(projections)}"
        )
    bias = projections[0][0].shape[1] - width == 1
    for q, p, columns, weights in projections:
        _expect("q", q, (side, width + bias))
        _expect("p", p, (side, d.shape[1]))
        _expect("columns", columns, (side * side,))
        _expect("weights", weights, (side * side,))
    _expect("out", out, (rows.examples, out.shape[-1]))
    if out.dtype != torch.promote_types(d.dtype, torch.float32):
        raise ValueError(f"project: out: expected {torch.promote_types(d.dtype, torch.float32)}, got {out.dtype}")
    if impl == "triton":
        from . import triton_experts

        prepared = prepared or _prepare_experts(projections, width, out.shape[1], d.dtype)
        if not prepared.fits(side, a, bias, d, out, len(rows)):
            raise ValueError(
                "project: prepared: expected what prepare_expert_projections made of these, for this dtype of a and d"
            )
        return triton_experts.project_experts(a, d, rows, side, prepared, out)
    return reference.project_experts(a, d, rows, projections, out)


def prepare_expert_projections(
    projections: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]],
    width: int,
    dim: int,
    dtype: torch.dtype,
    *,
    impl: str = "auto",
) -> PreparedExperts | None:
    """As `prepare_projection`, for the projections of all experts of a matrix (`project_experts`)."""
    _, p, _, _ = projections[0]
    if _resolve(impl, p.device, dtype, p.shape[0]) != "triton":
        return None
    return _prepare_experts(projections, width, dim, dtype)


def prepare_projection(
    q: torch.Tensor,
    p: torch.Tensor,
    columns: torch.Tensor,
    weights: torch.Tensor,
    width: int,
    dim: int,
    dtype: torch.dtype,
    *,
    impl: str = "auto",
) -> Prepared | None:
    """Lay out a layer's projections for the tensor cores and invert its sparse map, once for many batches.

    Args:
        q, p, columns, weights: as for `project`. width: I. dim: columns of the sketch, 1 or more.
        dtype: of the activations to come. impl: as for `project`.

    Returns:
        The argument `prepared` of `project` and `project_inputs`; None when the implementation does not use it.

    Raises:
        ConfigError: when Triton is asked for and cannot run here.
    """
    if _resolve(impl, p.device, dtype, p.shape[0]) != "triton":
        return None
    return _prepare(q, p, columns, weights, width, dim, dtype)


def project_inputs(
    a: torch.Tensor, q: torch.Tensor, *, dtype: torch.dtype, impl: str = "auto", prepared: Prepared | None = None
) -> torch.Tensor:
    """Q a_t for every token: [T, p], for layers that read the same input.

    Args:
        a: [T, I] floating point.
        q: [p, I], or [p, I + 1] for layers with bias, in `dtype`.
        dtype: of the result, float32 (float64 for float64 inputs).
        impl: as for `project`.
        prepared: as for `project`, for any of the layers. Without it, torch does the work, and copies a in `dtype`.

    Raises:
        ValueError, ConfigError: as for `project`.
    """
    impl = _resolve(impl, a.device, a.dtype, q.shape[0])
    if impl == "triton" and prepared is not None:
        from . import triton

        if prepared.q.dtype != a.dtype or prepared.q.shape[1] < a.shape[1]:
            raise ValueError("project_inputs: prepared: expected what was prepared for a layer of such an input")
        return triton.project_inputs(a, q.shape[0], prepared)
    return reference.project_inputs(a, q, dtype)


def _resolve(impl: str, device: torch.device, dtype: torch.dtype, side: int) -> str:
    if side > LARGEST_SIDE:
        if impl == "triton":
            raise ConfigError(f"project: impl='triton' takes a side of at most {LARGEST_SIDE}, got {side}")
        impl = "reference" if impl == "auto" else impl
    return resolve("project", impl, device, dtype)


def _expect(name: str, x: torch.Tensor, shape: tuple[int, ...]) -> None:
    if tuple(x.shape) != shape:
        raise ValueError(f"project: {name}: expected shape {shape}, got {tuple(x.shape)}")
