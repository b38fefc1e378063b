"""Fixed factors (the seeds' U and V, the sketch's P and Q) in the dtype and layout that tensor cores want."""

from __future__ import annotations

import torch

# Factors are padded with zeros to a multiple of this many inputs, so that no load of them needs a mask.
DEPTH = 128


def scaled(w: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """w [n, width] as w' diag on the left with powers of two: every row of w' has its largest size in [0.5, 1).

    So no number overflows in float16, and only those below 2^-24 of the largest of their row vanish. Rounding to dtype
    is all that is lost.

    Returns:
        w' [n, width padded to a multiple of DEPTH] of dtype, zeros in the padding. scale float32 [n].
    """
    largest = w.abs().amax(1) if w.shape[1] else w.new_zeros(len(w))
    exponent = torch.frexp(largest).exponent
    exponent = torch.where(largest.isfinite() & (largest > 0), exponent, 0).clamp(-125, 125)
    out = torch.zeros(len(w), -(-w.shape[1] // DEPTH) * DEPTH, dtype=dtype, device=w.device)
    out[:, : w.shape[1]] = torch.ldexp(w, -exponent[:, None])
    return out, torch.ldexp(torch.ones_like(largest, dtype=torch.float32), exponent)
