"""Square roots of a layer's inverse curvature in the form that a two-sided projection can carry.

The sketch sees P G Q^T. With W = H^-1/2 separable, W G = S' G A', the projections carry it: P S', Q A'. EK-FAC's (and
K-FAC's with damping added to the products of eigenvalues) is not: in the eigenbasis it scales each entry (o, j) of
Q_S^T G Q_A by (L_oj + damping)^-1/2. Most of that is separable still, (l_S + c)^-1/2 (l_A + c')^-1/2. So the
projections carry these roots in the eigenbasis, and fold neighbouring eigendirections (of like eigenvalue) with random
signs into `side` groups; what is left of the scale varies slowly, and each of the side x side blocks gets its own
factor: the root of the mean, over the block's entries, of what H^-1 has beyond the separable part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from gdig.config.config import Config
from gdig.influence.curvature import Factors
from gdig.influence.inverse import damped_eigenvalues, tikhonov_shifts


@dataclass(frozen=True)
class Roots:
    """Separable (block None): s [O, O] and a [J, J] are the symmetric roots, H^-1/2 G = s G a.

    Else the rows of s [O, O] and a [J, J] are scaled eigendirections, in the order of their eigenvalues, and block
    [side, side] is the factor of each pair of groups; entry o belongs to group o * side // O.
    """

    s: torch.Tensor
    a: torch.Tensor
    block: torch.Tensor | None


def inverse_roots(f: Factors, config: Config, side: int) -> Roots:
    """Roots of the inverse that `config` asks for.

    Args:
        f: the layer's curvature.
        config: inversion, damping_mode, damping_factor.
        side: groups of a side.
    """
    dtype = f.q_a.dtype
    if config.damping_mode == "factored_tikhonov":
        shift_s, shift_a = tikhonov_shifts(f, config.damping_factor)
        s = (f.q_s.double() * (f.l_s + shift_s).rsqrt()) @ f.q_s.double().T
        a = (f.q_a.double() * (f.l_a + shift_a).rsqrt()) @ f.q_a.double().T
        return Roots(s.to(dtype), a.to(dtype), None)
    damped = damped_eigenvalues(f, config)
    if damped is None:  # no gradient ever reached the layer
        zero = torch.zeros(side, side, dtype=dtype, device=f.q_a.device)
        return Roots(f.q_s.T, f.q_a.T, zero)
    # The shifts for which the product of the sides comes near L + damping: a share of the mean on each side.
    share = math.sqrt(float(damped.min() / damped.mean()))
    l_s, l_a = (x + share * x.mean() for x in (f.l_s, f.l_a))
    beyond = torch.outer(l_s, l_a) / damped
    block = _block_means(_block_means(beyond, side).T, side).T.sqrt()
    s, a = (q.double().T / x.sqrt()[:, None] for q, x in ((f.q_s, l_s), (f.q_a, l_a)))
    return Roots(s.to(dtype), a.to(dtype), block.to(dtype))


def _block_means(x: torch.Tensor, side: int) -> torch.Tensor:
    """Means of the groups of rows: [rows, n] -> [side, n]; 0 for a group without rows."""
    group = torch.arange(len(x), device=x.device) * side // len(x)
    sums = torch.zeros(side, x.shape[1], dtype=x.dtype, device=x.device).index_add_(0, group, x)
    return sums / torch.bincount(group, minlength=side).clamp(min=1)[:, None]
