"""Second moments for the curvature: check the arguments, choose the implementation."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gdig.kernels.dispatch import resolve
from gdig.kernels.expert_rows import ExpertRows
from gdig.kernels.segments import Segments

from . import reference

BAND = 384
"""Rows of a band of `covariance_bands`: narrower bands save more of the square, and make thinner products."""


def covariance(x: torch.Tensor, mask: torch.Tensor, out: torch.Tensor, *, impl: str = "auto") -> None:
    """Add sum_t mask_t x_t x_t^T to `out`.

    Args:
        x: [T, W] floating point.
        mask: [T], 1 for a row that counts and 0 for a row that does not (a pad), dtype of `out`. "triton" does not read
            the rows that do not count.
        out: [W, W] the sums, or [W + 1, W + 1] for a layer with bias (a constant 1 is appended to each x_t). Changed.
            float32, or float64 for float64 inputs. It stays symmetric up to rounding, and with "triton" to the bit.
        impl: "auto", "triton" or "reference".

    Raises:
        ValueError: when shapes or dtypes do not fit one another, or `impl` is unknown.
        ConfigError: when Triton is asked for and cannot run here.
    """
    impl = resolve("covariance", impl, x.device, x.dtype)
    width = x.shape[1]
    if out.shape not in ((width, width), (width + 1, width + 1)):
        raise ValueError(f"covariance: out: expected {width} (bias: {width + 1}) squared, got {tuple(out.shape)}")
    if mask.shape != (x.shape[0],):
        raise ValueError(f"covariance: mask: expected shape {(x.shape[0],)}, got {tuple(mask.shape)}")
    _expect_sums("covariance", out, x.dtype)
    if impl == "triton":
        from . import triton

        return triton.covariance(x, mask, out)
    return reference.covariance(x, mask, out)


def covariance_bands(x: torch.Tensor, mask: torch.Tensor, bands: Sequence[torch.Tensor]) -> None:
    """Add sum_t mask_t x_t x_t^T to the upper triangle of a symmetric matrix, in plain torch.

    On a CPU this takes little more than half of the memory and of the operations of `covariance`.

    Args:
        x, mask: as for `covariance`.
        bands: the sums, as `triangle` makes them. Changed.

    Raises:
        ValueError: when shapes do not fit one another.
    """
    width = bands[0].shape[1]
    if width not in (x.shape[1], x.shape[1] + 1) or mask.shape != (x.shape[0],):
        raise ValueError(
            f"covariance_bands: x {tuple(x.shape)}, mask {tuple(mask.shape)} and bands of width {width} do not fit one "
            "another"
        )
    _expect_sums("covariance_bands", bands[0], x.dtype)
    reference.covariance_bands(x, mask, bands)


def triangle(width: int, dtype: torch.dtype, device: torch.device) -> list[torch.Tensor]:
    """Zeros for the upper triangle of a [width, width] matrix, in bands of `BAND` rows.

    Band b holds the rows from r = b * BAND on, and of them the columns from r on: [rows, width - r].
    """
    return [
        torch.zeros(min(BAND, width - first), width - first, dtype=dtype, device=device)
        for first in range(0, width, BAND)
    ]


def triangle_numbers(width: int) -> int:
    """How many numbers `triangle` has."""
    return sum(min(BAND, width - first) * (width - first) for first in range(0, width, BAND))


def from_triangle(bands: Sequence[torch.Tensor]) -> torch.Tensor:
    """The symmetric matrix [width, width] of some bands (see `triangle`)."""
    width = bands[0].shape[1]
    square = bands[0].new_empty(width, width)
    first = 0
    for band in bands:
        last = first + len(band)
        corner = band[:, : len(band)]
        square[first:last, first:last] = corner.triu() + corner.triu(1).T
        square[first:last, last:] = band[:, len(band) :]
        square[last:, first:last] = band[:, len(band) :].T
        first = last
    return square


def squared_gradients(
    a: torch.Tensor, d: torch.Tensor, offsets: torch.Tensor | Segments, out: torch.Tensor, *, impl: str = "auto"
) -> None:
    """Add sum_e (G_e)^2, elementwise, to `out` (EK-FAC, Grosse et al. 2023, equation 20, in the basis of a and d).

    Args:
        a: [T, J] inputs in the eigenbasis of A. d: [T, O] output gradients in the eigenbasis of S, dtype of `a`.
        offsets: [B + 1] int64 on the CPU, rising from 0 to T, or Segments made of it.
        out: [O, J] the sums, float32 (float64 for float64 inputs). Changed.
        impl: "auto", "triton" or "reference".

    Raises:
        ValueError: when shapes do not fit one another, or `impl` is unknown.
        ConfigError: when Triton is asked for and cannot run here.
    """
    impl = resolve("squared_gradients", impl, a.device, a.dtype)
    examples = Segments.of(offsets)
    if out.shape != (d.shape[1], a.shape[1]) or a.shape[0] != d.shape[0] or examples.end != a.shape[0]:
        raise ValueError(
            f"squared_gradients: a {tuple(a.shape)}, d {tuple(d.shape)}, offsets to {examples.end} and "
            f"out {tuple(out.shape)} do not fit one another"
        )
    if d.dtype != a.dtype:
        raise ValueError(f"squared_gradients: d: expected {a.dtype}, the dtype of a, got {d.dtype}")
    _expect_sums("squared_gradients", out, a.dtype)
    if impl == "triton":
        from . import triton

        return triton.squared_gradients(a, d, examples, out)
    return reference.squared_gradients(a, d, examples, out)


def covariance_experts(
    x: torch.Tensor, mask: torch.Tensor, rows: ExpertRows, out: Sequence[torch.Tensor], *, impl: str = "auto"
) -> None:
    """Add sum_t mask_t x_t x_t^T over the rows of each expert to the expert's own sums.

    Args:
        x: [R, W] floating point. mask: [R], as for `covariance`.
        rows: whose the rows are.
        out: for each expert the sums [W, W], or [W + 1, W + 1] with bias, as for `covariance`. Changed.
        impl: as for `covariance`.

    Raises:
        ValueError, ConfigError: as for `covariance`.
    """
    impl = resolve("covariance", impl, x.device, x.dtype)
    width = x.shape[1]
    side = len(out[0])
    if side not in (width, width + 1) or any(own.shape != (side, side) for own in out):
        raise ValueError(f"covariance: out: expected {width} (bias: {width + 1}) squared, got {tuple(out[0].shape)}")
    _expect_rows("covariance", rows, len(x), out)
    if mask.shape != (x.shape[0],):
        raise ValueError(f"covariance: mask: expected shape {(x.shape[0],)}, got {tuple(mask.shape)}")
    _expect_sums("covariance", out[0], x.dtype)
    if impl == "triton":
        from . import triton_experts

        return triton_experts.covariance_experts(x, mask, rows, out)
    return reference.covariance_experts(x, mask, rows, out)


def squared_gradients_experts(
    a: torch.Tensor,
    d: torch.Tensor,
    rows: ExpertRows,
    out: Sequence[torch.Tensor | None],
    *,
    impl: str = "auto",
) -> None:
    """Add the squares of the examples' gradients at each expert to the expert's own sums (`squared_gradients`).

    Args:
        a: [R, J], each row in the eigenbasis of its expert. d: [R, O], likewise, dtype of `a`.
        rows: whose the rows are.
        out: for each expert the sums [O, J], as for `squared_gradients`; None for an expert to leave out. Changed.
        impl: as for `squared_gradients`.

    Raises:
        ValueError, ConfigError: as for `squared_gradients`.
    """
    impl = resolve("covariance", impl, a.device, a.dtype)
    _expect_rows("squared_gradients", rows, len(a), out)
    for sums in out:
        if sums is not None and (sums.shape != (d.shape[1], a.shape[1]) or len(a) != len(d)):
            raise ValueError(
                f"squared_gradients: a {tuple(a.shape)}, d {tuple(d.shape)} and out {tuple(sums.shape)} do not fit one "
                "another"
            )
        if sums is not None:
            _expect_sums("squared_gradients", sums, a.dtype)
    if d.dtype != a.dtype:
        raise ValueError(f"squared_gradients: d: expected {a.dtype}, the dtype of a, got {d.dtype}")
    if impl == "triton":
        from . import triton_experts

        return triton_experts.squared_gradients_experts(a, d, rows, out)
    return reference.squared_gradients_experts(a, d, rows, out)


def _expect_rows(name: str, rows: ExpertRows, tokens: int, out: Sequence[torch.Tensor | None]) -> None:
    if rows.end != tokens or len(out) != len(rows):
        raise ValueError(
            f"{name}: expected {tokens} rows, and sums of {len(rows)} experts, got offsets to {rows.end} and sums of "
            f"{len(out)}"
        )


def _expect_sums(name: str, out: torch.Tensor, dtype: torch.dtype) -> None:
    expected = torch.promote_types(dtype, torch.float32)
    if out.dtype != expected:
        raise ValueError(f"{name}: out: expected {expected} for inputs of {dtype}, got {out.dtype}")
