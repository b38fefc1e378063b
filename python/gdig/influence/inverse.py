"""The inverse Hessian of a layer times a gradient."""

from __future__ import annotations

import math

import torch

from gdig.config.config import Config
from gdig.errors import ModelError
from gdig.influence.factors import Factors


class Inverse:
    """H^-1 of one layer: W = H^-1 G for a gradient G [O, J]. The options decide the form.

    - identity: W = G.
    - factored_tikhonov: W = (S + sqrt(x)/pi)^-1 G (A + pi sqrt(x))^-1, with pi = sqrt((tr A / J) / (tr S / O)) and the
      damping x (Martens and Grosse 2015, section 6.3).
    - ekfac, kfac and cg: W = Q_S [(Q_S^T G Q_A) / (L + damping)] Q_A^T (Grosse et al. 2023, equation 21). The damping
      is damping_factor; with damping_mode=relative it is damping_factor times the mean of L. For cg, W is the
      preconditioner (gdig.influence.conjugate_gradients).

    `solve` returns W in coordinates that save work: Q_S^T W Q_A in the eigenvalue form, W itself in the other forms.
    `coordinates` and `back` turn the sides of a product into these coordinates and back.

    Args:
        factors: the curvature of the layer; None for the identity. Its eigenvectors alone are kept.
        config: inversion, damping_mode, damping_factor.
        name: the name of the layer, for errors.

    Raises:
        ModelError: if a matrix is singular and has no damping.
    """

    def __init__(self, factors: Factors | None, config: Config, name: str = "layer") -> None:
        self._bases: tuple[torch.Tensor, torch.Tensor] | None = None  # Q_S [O, O], Q_A [J, J], eigenvalue form
        self._scale = torch.empty(0)  # [O, J], eigenvalue form
        self._sides: tuple[torch.Tensor, torch.Tensor] | None = None  # [O, O], [J, J], factored_tikhonov
        if factors is None:
            return
        if config.damping_mode == "factored_tikhonov":
            self._sides = _tikhonov(factors, config.damping_factor, name)
            return
        self._bases = factors.q_s, factors.q_a
        damped = damped_eigenvalues(factors, config, name)
        if damped is None:  # the layer has no gradient, so every product is 0
            self._scale = torch.zeros(len(factors.l_s), len(factors.l_a), dtype=factors.q_a.dtype).to(factors.q_a)
        else:
            self._scale = damped.reciprocal_().to(factors.q_a.dtype)

    @property
    def separable(self) -> bool:
        """Whether W = U V^T has one column for each token of the gradient (identity, factored_tikhonov)."""
        return self._bases is None

    def tokens(self, a: torch.Tensor, d: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return U [O, T] and V [J, T] with W = U V^T, for G = sum_t d_t a_t^T, in the separable form.

        Args:
            a: [T, J], the inputs.
            d: [T, O], the output gradients.
        """
        if self._sides is None:
            return d.T, a.T
        left, right = self._sides
        return left @ d.T, right @ a.T

    def solve(self, a: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
        """Return W [O, J] in the coordinates of this inverse, for G = sum_t d_t a_t^T.

        Args:
            a: [T, J], the inputs, with the constant input of the bias.
            d: [T, O], the output gradients.
        """
        if self._bases is not None:
            return _sandwich(*self._bases, a, d).mul_(self._scale)
        return d.T @ a if self._sides is None else _sandwich(*self._sides, a, d)

    def coordinates(self, a: torch.Tensor, d: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a [T, J] and d [T, O] such that sum_t <d_t, W a_t> is the same with W of `solve`."""
        if self._bases is None:
            return a, d
        q_s, q_a = self._bases
        return a @ q_a, d @ q_s

    def back(self, u: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return U [O, r] and V [J, r] of W, from those of `solve`'s W."""
        if self._bases is None:
            return u, v
        q_s, q_a = self._bases
        return q_s @ u, q_a @ v

    def dense(self, g: torch.Tensor) -> torch.Tensor:
        """Return W [O, J] for a gradient g [O, J]."""
        if self._sides is not None:
            left, right = self._sides
            return left @ g @ right
        if self._bases is None:
            return g
        q_s, q_a = self._bases
        return q_s @ ((q_s.T @ g @ q_a) * self._scale) @ q_a.T


def damped_eigenvalues(f: Factors, config: Config, name: str = "layer") -> torch.Tensor | None:
    """Return L + damping for the eigenvalue forms: float64 [O, J], or None if all gradients of the layer are 0.

    Raises:
        ModelError: if the curvature is singular and has no damping.
    """
    eigenvalues = f.eigenvalues()
    if float(eigenvalues.mean()) == 0:
        return None
    damped = eigenvalues + damping(eigenvalues, config)
    if not bool((damped > 0).all()):
        raise ModelError(
            f"damping_factor={config.damping_factor:g}: expected a number above 0, because the curvature of {name} is "
            "singular"
        )
    return damped


def damping(eigenvalues: torch.Tensor, config: Config) -> float:
    """Return the number that the eigenvalue forms add to the eigenvalues L [O, J] of a layer."""
    return config.damping_factor * (float(eigenvalues.mean()) if config.damping_mode == "relative" else 1.0)


def tikhonov_shifts(f: Factors, x: float, name: str = "layer") -> tuple[float, float]:
    """Return the numbers that factored Tikhonov damping x adds to the eigenvalues of S and A: sqrt(x) / pi, pi sqrt(x).

    Raises:
        ModelError: if the damping or the curvature is 0, so that pi is undefined.
    """
    mean_a, mean_s = float(f.l_a.mean()), float(f.l_s.mean())
    if x == 0:
        raise ModelError(f"damping_factor={x:g}: expected a number above 0, because damping_mode=factored_tikhonov")
    if mean_a == 0 or mean_s == 0:
        raise ModelError(
            f"{name}: its curvature is 0, but damping_mode=factored_tikhonov expects curvature; leave the layer out "
            "with filter_modules, or set damping_mode=relative"
        )
    pi = math.sqrt(mean_a / mean_s)
    return math.sqrt(x) / pi, math.sqrt(x) * pi


def _tikhonov(f: Factors, x: float, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    shift_s, shift_a = tikhonov_shifts(f, x, name)
    dtype = f.q_a.dtype
    left = (f.q_s.double() / (f.l_s + shift_s)) @ f.q_s.double().T
    right = (f.q_a.double() / (f.l_a + shift_a)) @ f.q_a.double().T
    return left.to(dtype), right.to(dtype)


def _sandwich(left: torch.Tensor, right: torch.Tensor, a: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    """Return left^T G right [O, J] for G = sum_t d_t a_t^T.

    Each matrix multiplies the T tokens or the gradient, whichever is less work: T O^2 or J O^2 on the left, T J^2 or
    O J^2 on the right.
    """
    (tokens, width), outputs = a.shape, d.shape[1]
    left_on_tokens, right_on_tokens = tokens <= width, tokens <= outputs
    g = (d @ left if left_on_tokens else d).T @ (a @ right if right_on_tokens else a)
    if not left_on_tokens:
        g = left.T @ g
    return g if right_on_tokens else g @ right
