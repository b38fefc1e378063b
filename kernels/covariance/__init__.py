"""Second moments for the curvature: check the arguments, choose the implementation."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gdig.kernels.dispatch import resolve
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


def _expect_sums(name: str, out: torch.Tensor, dtype: torch.dtype) -> None:
    expected = torch.promote_types(dtype, torch.float32)
    if out.dtype != expected:
        raise ValueError(f"{name}: out: expected {expected} for inputs of {dtype}, got {out.dtype}")
