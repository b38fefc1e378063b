"""Influence of candidates on seeds: check the arguments, choose the implementation."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gdig.kernels.dispatch import resolve
from gdig.kernels.expert_rows import ExpertRows
from gdig.kernels.score.prepared import Prepared, PreparedExperts
from gdig.kernels.score.prepared import prepare as _prepare
from gdig.kernels.score.prepared import prepare_experts as _prepare_experts
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
    prepared: Prepared | None = None,
) -> None:
    """Add one layer's influence of each example on each seed to `out`.

    out[e, s] += <G_e, U_s V_s^T> = sum_t sum_{c of s} (d_t . u_c)(a_t . v_c), with G_e = sum_t d_t a_t^T.

    Args:
        a: [T, I] inputs of the layer, floating point.
        d: [T, O] output gradients, dtype of `a`.
        offsets: [B + 1] int64 on the CPU, rising from 0 to T, or Segments made of it.
        u: [O, C] the seeds' left factors side by side, dtype of `out`.
        v: [I, C], or [I + 1, C] for a layer with bias (a constant 1 is appended to a), dtype of `out`.
        column_offsets: [S + 1] int64 on the CPU, or Segments made of it; seed s has the columns
            column_offsets[s] .. column_offsets[s + 1] - 1.
        out: [B, S] the sums, float32 (float64 for float64 inputs). Changed.
        impl: "auto", "triton" or "reference".
        prepared: the result of `prepare_factors` for u, v, column_offsets and this dtype of `a`. Without it, "triton"
            prepares them at each call, which costs more than a small batch. "reference" does not use it.

    For bfloat16 and float16 activations, "triton" rounds U and V to their dtype; kernels/README.md has the error.
    "reference" takes U and V in bfloat16 for `out` in float32. Then a, d and the two products are rounded too, each by
    at most 2^-8. So a score is off by at most 2^-5 of the sum over t and c of the products of |d_t| . |u_c| and
    |a_t| . |v_c|.

    Raises:
        ValueError: when shapes, dtypes or devices do not fit one another, or `impl` is unknown.
        ConfigError: when Triton is asked for and cannot run here.
    """
    impl = resolve("score", impl, a.device, a.dtype)
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
    _expect_dtypes(a, d, out, impl)
    if impl == "triton":
        from . import triton

        prepared = prepared or _prepare(u, v, seeds, width, a.dtype)
        _expect_fit(prepared.fits(v, seeds, width, a), "prepare_factors")
        return triton.score(a, d, examples, prepared, out)
    return reference.score(a, d, examples, u, v, seeds, out)


def score_experts(
    a: torch.Tensor,
    d: torch.Tensor,
    rows: ExpertRows,
    u: Sequence[torch.Tensor],
    v: Sequence[torch.Tensor],
    column_offsets: Sequence[Segments],
    out: torch.Tensor,
    *,
    impl: str = "auto",
    prepared: PreparedExperts | None = None,
) -> None:
    """Add the influence of each example on each seed in all experts of a matrix to `out`.

    out[e, s] += the sum over the experts n of <G_ne, U_ns V_ns^T>. G_ne is the sum of d_t a_t^T over the rows that
    expert n sees of example e.

    Args:
        a: [R, I] inputs of the experts' rows, floating point. d: [R, O] output gradients, dtype of `a`.
        rows: whose the rows are.
        u: for each expert [O, C_n], dtype of `out`. v: [I, C_n], or [I + 1, C_n] with bias. column_offsets: as for
            `score`. An expert that no seed goes to has C_n = 0.
        out: [B, S] the sums, float32 (float64 for float64 inputs). Changed.
        impl: as for `score`.
        prepared: the result of `prepare_expert_factors` for these factors and this dtype of `a`; as for `score`.

    Raises:
        ValueError, ConfigError: as for `score`.
    """
    impl = resolve("score", impl, a.device, a.dtype)
    tokens, width = a.shape
    _expect("d", d, (tokens, d.shape[-1]))
    if rows.end != tokens or not len(rows) == len(u) == len(v) == len(column_offsets):
        raise ValueError(
            f"score: expected {tokens} rows, and factors of {len(rows)} experts, got offsets to {rows.end} and factors "
            f"of {len(u)}, {len(v)} and {len(column_offsets)}"
        )
    extra = len(v[0]) - width
    for u_n, v_n, seeds in zip(u, v, column_offsets, strict=True):
        _expect("u", u_n, (d.shape[1], seeds.end))
        _expect("v", v_n, (width + min(1, max(0, extra)), seeds.end))
        _expect("out", out, (rows.examples, len(seeds)))
    _expect_dtypes(a, d, out, impl)
    if impl == "triton":
        from . import triton_experts

        prepared = prepared or _prepare_experts(u, v, column_offsets, width, a.dtype)
        _expect_fit(prepared.fits(v, column_offsets, width, a), "prepare_expert_factors")
        return triton_experts.score_experts(a, d, rows, prepared, out)
    return reference.score_experts(a, d, rows, u, v, column_offsets, out)


def prepare_factors(
    u: torch.Tensor,
    v: torch.Tensor,
    column_offsets: torch.Tensor | Segments,
    width: int,
    dtype: torch.dtype,
    *,
    impl: str = "auto",
) -> Prepared | None:
    """Lay out the seeds' factors for the tensor cores, once for many batches.

    Args:
        u, v, column_offsets: as for `score`. width: I. dtype: of the activations to come.
        impl: as for `score`.

    Returns:
        The argument `prepared` of `score`, with copies of u and v in dtype. None when the implementation does not use
        it.

    Raises:
        ConfigError: when Triton is asked for and cannot run here.
    """
    if resolve("score", impl, u.device, dtype) != "triton":
        return None
    return _prepare(u, v, Segments.of(column_offsets), width, dtype)


def prepare_expert_factors(
    u: Sequence[torch.Tensor],
    v: Sequence[torch.Tensor],
    column_offsets: Sequence[Segments],
    width: int,
    dtype: torch.dtype,
    *,
    impl: str = "auto",
) -> PreparedExperts | None:
    """As `prepare_factors`, for the factors of all experts of a matrix (`score_experts`)."""
    if resolve("score", impl, u[0].device, dtype) != "triton":
        return None
    return _prepare_experts(u, v, column_offsets, width, dtype)


def _expect(name: str, x: torch.Tensor, shape: tuple[int, ...]) -> None:
    if tuple(x.shape) != shape:
        raise ValueError(f"score: {name}: expected shape {shape}, got {tuple(x.shape)}")


def _expect_dtypes(a: torch.Tensor, d: torch.Tensor, out: torch.Tensor, impl: str) -> None:
    if out.dtype != torch.promote_types(a.dtype, torch.float32):
        raise ValueError(f"score: out: expected {torch.promote_types(a.dtype, torch.float32)}, got {out.dtype}")
    if impl == "triton" and d.dtype != a.dtype:
        raise ValueError(f"score: d: expected {a.dtype}, the dtype of a, got {d.dtype}")


def _expect_fit(fits: bool, maker: str) -> None:
    if not fits:
        raise ValueError(f"score: prepared: expected what {maker} made of these u, v and seeds, for this dtype of a")
