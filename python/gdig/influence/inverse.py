"""The inverse Hessian of a layer times a gradient, and low-rank forms of the product."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from gdig.config.config import Config
from gdig.errors import ModelError
from gdig.influence.factors import Factors

_EXACT_ROWS = 1024
"""Most rows of a matrix whose low-rank form comes from an exact eigendecomposition; larger ones are randomised."""


class Inverse:
    """H^-1 of one layer: W = H^-1 G for a gradient G [O, J]. The options decide the form.

    - identity: W = G.
    - factored_tikhonov: W = (S + sqrt(x)/pi)^-1 G (A + pi sqrt(x))^-1, with pi = sqrt((tr A / J) / (tr S / O)) and the
      damping x (Martens and Grosse 2015, section 6.3).
    - ekfac, kfac and cg: W = Q_S [(Q_S^T G Q_A) / (L + damping)] Q_A^T (Grosse et al. 2023, equation 21). The damping
      is damping_factor; with damping_mode=relative it is damping_factor times the mean of L. For cg, W is the
      preconditioner (gdig.influence.conjugate_gradients).

    Args:
        factors: the curvature of the layer; None for the identity.
        config: inversion, damping_mode, damping_factor.
        name: the name of the layer, for errors.

    Raises:
        ModelError: if a matrix is singular and has no damping.
    """

    def __init__(self, factors: Factors | None, config: Config, name: str = "layer") -> None:
        self.factors = factors
        self._scale: torch.Tensor | None = None  # [O, J], eigenvalue form
        self._sides: tuple[torch.Tensor, torch.Tensor] | None = None  # [O, O], [J, J], separable form
        if factors is None:
            return
        if config.damping_mode == "factored_tikhonov":
            self._sides = _tikhonov(factors, config.damping_factor, name)
            return
        damped = damped_eigenvalues(factors, config, name)
        if damped is None:  # the layer has no gradient, so every product is 0
            self._scale = torch.zeros(len(factors.l_s), len(factors.l_a), dtype=factors.q_a.dtype).to(factors.q_a)
        else:
            self._scale = (1.0 / damped).to(factors.q_a.dtype)

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

    def dense(self, g: torch.Tensor) -> torch.Tensor:
        """Return W [O, J] for a gradient g [O, J]."""
        if self._sides is not None:
            left, right = self._sides
            return left @ g @ right
        if self._scale is None or self.factors is None:
            return g
        f = self.factors
        return f.q_s @ ((f.q_s.T @ g @ f.q_a) * self._scale) @ f.q_a.T

    def low_rank(
        self, a: torch.Tensor, d: torch.Tensor, energy: float, cap: int, random_seed: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor, float]:
        """Return a low-rank form of W for one example.

        Args:
            a: [T, J], the inputs, with the constant input of the bias.
            d: [T, O], the output gradients.
            energy: the least share of |W|^2 that the form keeps; it decides r.
            cap: the largest number r of columns.
            random_seed: the random seed of the randomised range finder, which wide layers use.

        Returns:
            U [O, r] and V [J, r] with W ~ U V^T, and the share of |W|^2 that the form keeps.
        """
        if self._scale is None or self.factors is None:
            return compress(*self.tokens(a, d), energy, cap)
        f = self.factors
        rotated = ((d @ f.q_s).T @ (a @ f.q_a)) * self._scale
        u, v, share = factor(rotated, energy, cap, random_seed)
        return f.q_s @ u, f.q_a @ v, share


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


@dataclass(frozen=True)
class _Cut:
    rank: int
    energy: float


def _cut(squares: torch.Tensor, total: float, energy: float, cap: int) -> _Cut:
    """Cut the falling squared singular values to the fewest that reach `energy` of `total`, at most `cap`."""
    if total <= 0:
        return _Cut(1, 1.0)
    share = squares.clamp(min=0).cumsum(0) / total
    # An energy of 1 takes every column: by rounding, the sum reaches 1 before the last values, such as 1e-8.
    enough = len(squares) if energy >= 1 else int((share < energy).sum()) + 1
    rank = min(enough, len(squares), cap)
    return _Cut(rank, min(1.0, float(share[rank - 1])))


def compress(u: torch.Tensor, v: torch.Tensor, energy: float, cap: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Shorten W = U V^T to the fewest columns that keep `energy` of |W|^2.

    Args:
        u: [O, T].
        v: [J, T].
        energy: the least share of |W|^2 that the result keeps.
        cap: the largest number r of columns; it can lower the share.

    Returns:
        U [O, r], V [J, r], and the share of |W|^2 that they keep.
    """
    q_u, r_u = torch.linalg.qr(u)
    q_v, r_v = torch.linalg.qr(v)
    left, values, right = torch.linalg.svd(r_u @ r_v.T, full_matrices=False)
    squares = values.double().square()
    cut = _cut(squares, float(squares.sum()), energy, cap)
    if cut.rank >= u.shape[1]:
        return u, v, 1.0  # the tokens of the example are as few columns, and exact
    return (q_u @ left[:, : cut.rank]) * values[: cut.rank], q_v @ right[: cut.rank].T, cut.energy


def factor(w: torch.Tensor, energy: float, cap: int, random_seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Factor W ~ U V^T with the fewest columns that keep `energy` of |W|^2.

    One side is an orthonormal basis of the leading singular vectors, and the other side is the product of W with the
    basis. So the error is exactly the component of W outside the basis. Up to 1,024 rows, the basis comes from the
    eigenvectors of the Gram matrix in float64. Above 1,024 rows, a randomised range finder with two power iterations
    makes the basis (Halko et al. 2011, algorithm 4.4).

    Args:
        w: [O, J].
        energy: the least share of |W|^2 that the result keeps.
        cap: the largest number r of columns; it can lower the share.
        random_seed: the random seed of the range finder.

    Returns:
        U [O, r], V [J, r], and the share of |W|^2 that they keep.
    """
    if w.shape[0] > w.shape[1]:
        v, u, share = factor(w.T, energy, cap, random_seed)
        return u, v, share
    total = float(w.double().square().sum())
    if len(w) <= _EXACT_ROWS:
        w64 = w.double()
        squares, basis = torch.linalg.eigh(w64 @ w64.T)
        squares, basis = squares.flip(0), basis.flip(1)
    else:
        basis = _range(w, min(cap + 16, len(w)), random_seed)
        small = (basis.T @ w).double()
        squares, turn = torch.linalg.eigh(small @ small.T)
        squares, basis = squares.flip(0), basis.double() @ turn.flip(1)
    cut = _cut(squares, total, energy, cap)
    u = basis[:, : cut.rank].to(w.dtype)
    return u, w.T @ u, cut.energy


def _range(w: torch.Tensor, columns: int, random_seed: int) -> torch.Tensor:
    """Return an approximate orthonormal basis [O, columns] of the leading left singular vectors of W."""
    generator = torch.Generator(device="cpu").manual_seed(random_seed)
    start = torch.randn(w.shape[1], columns, generator=generator, dtype=w.dtype).to(w.device)
    q, _ = torch.linalg.qr(w @ start)
    for _ in range(2):
        q, _ = torch.linalg.qr(w.T @ q)
        q, _ = torch.linalg.qr(w @ q)
    return q
