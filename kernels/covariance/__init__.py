"""Second moments for the curvature: check the arguments, choose the implementation."""

from __future__ import annotations

import torch

from gdig.kernels.dispatch import resolve
from gdig.kernels.segments import Segments

from . import reference


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
