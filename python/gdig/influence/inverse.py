"""The inverse Hessian of a layer, applied to a gradient, and low-rank forms of the result."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from gdig.config.config import Config
from gdig.errors import ModelError
from gdig.influence.curvature import Factors

# Up to this many rows the low-rank form comes from an exact eigendecomposition, above it from a randomised one.
_EXACT_ROWS = 1024


class Inverse:
    """H^-1 of one layer, in the form that `config` asks for.

    identity:           W = G
    factored_tikhonov:  W = (S + sqrt(x)/pi)^-1 G (A + pi sqrt(x))^-1, pi = sqrt((tr A / J) / (tr S / O)), x the damping
                        (Martens and Grosse 2015, section 6.3)
    ekfac, kfac, cg:    W = Q_S [(Q_S^T G Q_A) / (L + damping)] Q_A^T (Grosse et al. 2023, equation 21), the damping
                        being damping_factor, times the mean of L when damping_mode is relative; for cg this is where
                        it starts (gdig.influence.conjugate_gradients)

    Raises:
        ModelError: when nothing damps a singular matrix.
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
        if damped is None:  # its gradients are all zero, and so is every product
            self._scale = torch.zeros(len(factors.l_s), len(factors.l_a), dtype=factors.q_a.dtype).to(factors.q_a)
        else:
            self._scale = (1.0 / damped).to(factors.q_a.dtype)

    def tokens(self, a: torch.Tensor, d: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Separable form: factors U [O, T], V [J, T] with W = U V^T, for G = sum_t d_t a_t^T; a [T, J], d [T, O]."""
        if self._sides is None:
            return d.T, a.T
        left, right = self._sides
        return left @ d.T, right @ a.T

    def dense(self, g: torch.Tensor) -> torch.Tensor:
        """W [O, J] for a gradient g [O, J]."""
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
        """W of one example as U [O, r], V [J, r], W ~ U V^T, and the share of |W|^2 kept.

        Args:
            a: [T, J] inputs (with the constant of the bias). d: [T, O] output gradients.
            energy: least share of |W|^2 to keep; decides r.
            cap: most columns.
            random_seed: of the randomised range finder that wide layers use.
        """
        if self._scale is None or self.factors is None:
            return compress(*self.tokens(a, d), energy, cap)
        f = self.factors
        rotated = ((d @ f.q_s).T @ (a @ f.q_a)) * self._scale
        u, v, kept = factor(rotated, energy, cap, random_seed)
        return f.q_s @ u, f.q_a @ v, kept


def damped_eigenvalues(f: Factors, config: Config, name: str = "layer") -> torch.Tensor | None:
    """L + damping [O, J] in float64, for the eigenvalue forms; None when no gradient ever reached the layer.

    Raises:
        ModelError: when nothing damps a singular matrix.
    """
    eigenvalues = f.eigenvalues()
    if float(eigenvalues.mean()) == 0:
        return None
    damped = eigenvalues + damping(eigenvalues, config)
    if not bool((damped > 0).all()):
        raise ModelError(f"{name}: its curvature is singular; damping_factor must be above 0")
    return damped


def damping(eigenvalues: torch.Tensor, config: Config) -> float:
    """What the eigenvalue forms add to each of a layer's eigenvalues L [O, J]."""
    return config.damping_factor * (float(eigenvalues.mean()) if config.damping_mode == "relative" else 1.0)


def tikhonov_shifts(f: Factors, x: float, name: str = "layer") -> tuple[float, float]:
    """What factored Tikhonov damping adds to the eigenvalues of S and of A: sqrt(x) / pi and pi sqrt(x).

    Raises:
        ModelError: when there is nothing to balance.
    """
    mean_a, mean_s = float(f.l_a.mean()), float(f.l_s.mean())
    if x == 0 or mean_a == 0 or mean_s == 0:
        raise ModelError(f"{name}: factored_tikhonov needs damping_factor above 0 and curvature that is not zero")
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
    kept: float


def _cut(squares: torch.Tensor, total: float, energy: float, cap: int) -> _Cut:
    """How many of the falling squared singular values reach `energy` of `total`, at most `cap`."""
    if total <= 0:
        return _Cut(1, 1.0)
    share = squares.clamp(min=0).cumsum(0) / total
    # All of the energy means every column: the sum reaches 1 by rounding while values of 1e-8 are still to come.
    enough = len(squares) if energy >= 1 else int((share < energy).sum()) + 1
    rank = min(enough, len(squares), cap)
    return _Cut(rank, min(1.0, float(share[rank - 1])))


def compress(u: torch.Tensor, v: torch.Tensor, energy: float, cap: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Shorten W = U V^T, u [O, T], v [J, T], to the fewest columns that keep `energy` of |W|^2 (at most `cap`)."""
    q_u, r_u = torch.linalg.qr(u)
    q_v, r_v = torch.linalg.qr(v)
    left, values, right = torch.linalg.svd(r_u @ r_v.T, full_matrices=False)
    squares = values.double().square()
    cut = _cut(squares, float(squares.sum()), energy, cap)
    if cut.rank >= u.shape[1]:
        return u, v, 1.0  # the example's own tokens are as short, and exact
    return (q_u @ left[:, : cut.rank]) * values[: cut.rank], q_v @ right[: cut.rank].T, cut.kept


def factor(w: torch.Tensor, energy: float, cap: int, random_seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, float]:
    """W [O, J] ~ U V^T with U [O, r], V [J, r], the fewest columns that keep `energy` of |W|^2 (at most `cap`).

    One side is an orthonormal basis of the leading singular vectors and the other is W's product with it, so what is
    lost is exactly W's part outside the basis. Up to 1,024 rows the basis comes from the eigenvectors of the Gram
    matrix in float64; above that from a randomised range finder with two power iterations (Halko et al. 2011,
    algorithm 4.4).
    """
    if w.shape[0] > w.shape[1]:
        v, u, kept = factor(w.T, energy, cap, random_seed)
        return u, v, kept
    total = float(w.double().square().sum())
    if len(w) <= _EXACT_ROWS:
        wide = w.double()
        squares, basis = torch.linalg.eigh(wide @ wide.T)
        squares, basis = squares.flip(0), basis.flip(1)
    else:
        basis = _range(w, min(cap + 16, len(w)), random_seed)
        small = (basis.T @ w).double()
        squares, turn = torch.linalg.eigh(small @ small.T)
        squares, basis = squares.flip(0), basis.double() @ turn.flip(1)
    cut = _cut(squares, total, energy, cap)
    u = basis[:, : cut.rank].to(w.dtype)
    return u, w.T @ u, cut.kept


def _range(w: torch.Tensor, columns: int, random_seed: int) -> torch.Tensor:
    """Orthonormal basis [O, columns] of W's leading left singular vectors, nearly."""
    generator = torch.Generator(device="cpu").manual_seed(random_seed)
    start = torch.randn(w.shape[1], columns, generator=generator, dtype=w.dtype).to(w.device)
    q, _ = torch.linalg.qr(w @ start)
    for _ in range(2):
        q, _ = torch.linalg.qr(w.T @ q)
        q, _ = torch.linalg.qr(w @ q)
    return q
