"""Square roots of a layer's inverse curvature, in a form for two-sided projections.

The sketch reads P G Q^T. For a separable root H^-1/2 G = S' G A', the projections P S' and Q A' include the root.

The roots of EK-FAC, and of K-FAC with damping on the products of eigenvalues, are not separable. In the eigenbasis,
they scale each entry (o, j) of Q_S^T G Q_A by (L_oj + damping)^-1/2. Most of this scale is separable:
(l_S + c)^-1/2 (l_A + c')^-1/2. So the projections include the separable roots in the eigenbasis. They add neighbouring
eigendirections, which have similar eigenvalues, with random signs in `side` groups. The rest of the scale varies
slowly. Each of the side x side blocks gets one factor for the rest: the root of the block's mean of H^-1 over its
separable factor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from gdig.config.config import Config
from gdig.influence.factors import Factors
from gdig.influence.inverse import damped_eigenvalues, tikhonov_shifts


@dataclass(frozen=True)
class Roots:
    """The root of a layer's inverse curvature.

    Attributes:
        s: [O, O]. A separable root H^-1/2 G = s G a has the symmetric root here. Any other root has scaled
            eigendirections as rows, in the order of their eigenvalues.
        a: [J, J], likewise for the inputs.
        block: [side, side], the factor of each pair of groups; row o of `s` is in group o * side // O. None for a
            separable root.
    """

    s: torch.Tensor
    a: torch.Tensor
    block: torch.Tensor | None


def inverse_roots(f: Factors, config: Config, side: int) -> Roots:
    """Compute the roots of the inverse of a layer's curvature.

    Args:
        f: the layer's curvature.
        config: inversion, damping_mode, damping_factor.
        side: the number of groups of a side.

    Raises:
        ModelError: if the curvature is singular and has no damping.
    """
    dtype = f.q_a.dtype
    if config.damping_mode == "factored_tikhonov":
        shift_s, shift_a = tikhonov_shifts(f, config.damping_factor)
        s = (f.q_s.double() * (f.l_s + shift_s).rsqrt()) @ f.q_s.double().T
        a = (f.q_a.double() * (f.l_a + shift_a).rsqrt()) @ f.q_a.double().T
        return Roots(s.to(dtype), a.to(dtype), None)
    damped = damped_eigenvalues(f, config)
    if damped is None:  # all gradients of the layer are 0
        zero = torch.zeros(side, side, dtype=dtype, device=f.q_a.device)
        return Roots(f.q_s.T, f.q_a.T, zero)
    # Each side is shifted by this share of its mean, so that the product of the sides is close to L + damping.
    share = math.sqrt(float(damped.min() / damped.mean()))
    l_s, l_a = (x + share * x.mean() for x in (f.l_s, f.l_a))
    rest = torch.outer(l_s, l_a) / damped
    block = _block_means(_block_means(rest, side).T, side).T.sqrt()
    s, a = (q.double().T / x.sqrt()[:, None] for q, x in ((f.q_s, l_s), (f.q_a, l_a)))
    return Roots(s.to(dtype), a.to(dtype), block.to(dtype))


def _block_means(x: torch.Tensor, side: int) -> torch.Tensor:
    """Average x [rows, n] over groups of rows: [side, n]. A group without rows has mean 0."""
    group = torch.arange(len(x), device=x.device) * side // len(x)
    sums = torch.zeros(side, x.shape[1], dtype=x.dtype, device=x.device).index_add_(0, group, x)
    return sums / torch.bincount(group, minlength=side).clamp(min=1)[:, None]
