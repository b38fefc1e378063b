"""Fixed factors (the seeds' U and V, the sketch's P and Q) in the dtype and layout of the tensor cores."""

from __future__ import annotations

import torch

# Factors are padded with zeros to a multiple of this many inputs, so that no load needs a mask.
DEPTH = 128


def scaled(w: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Divide each row of w [n, width] by a power of two, so that its largest absolute value is in [0.5, 1).

    So no number overflows in float16, and only numbers below 2^-24 of their row's largest become zero. The scaling is
    exact; the only error is the rounding to dtype.

    Returns:
        scaled: [n, width padded with zeros to a multiple of DEPTH] of dtype. scale: float32 [n], the powers of two.
    """
    largest = w.abs().amax(1) if w.shape[1] else w.new_zeros(len(w))
    exponent = torch.frexp(largest).exponent
    exponent = torch.where(largest.isfinite() & (largest > 0), exponent, 0).clamp(-125, 125)
    out = torch.zeros(len(w), -(-w.shape[1] // DEPTH) * DEPTH, dtype=dtype, device=w.device)
    out[:, : w.shape[1]] = torch.ldexp(w, -exponent[:, None])
    return out, torch.ldexp(torch.ones_like(largest, dtype=torch.float32), exponent)
