"""Low-rank forms of a matrix W: the fewest columns U, V that keep a share of |W|^2 in W ~ U V^T."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from gdig.philox import rademacher

LowRank = tuple[torch.Tensor, torch.Tensor, float]
"""U [O, r] and V [J, r] with W ~ U V^T, and the share of |W|^2 that they keep: 1 - |W - U V^T|^2 / |W|^2."""

_EXACT_ROWS = 64
"""Most rows of a matrix whose form comes from an exact eigendecomposition."""
_BLOCK = 32
"""Columns that a step of the search adds. Blocks of 8 and 16 end with up to a third more columns (LOG.md)."""
_ORTHOGONAL = 1e-4
"""The largest cosine between a new column and the earlier ones. Its square is the error of the energy."""


def factor(w: torch.Tensor, energy: float, cap: int, key: int = 0) -> LowRank:
    """Factor W ~ U V^T with few columns that keep `energy` of |W|^2.

    U (V, if W has more rows than columns) has orthonormal columns, and the other side is the product of W with them.
    Up to 64 rows, U has the leading eigenvectors of W W^T, in float64. Above, a block Lanczos search with full
    reorthogonalisation makes U (Golub, Luk and Overton 1981; Musco and Musco 2015, algorithm 2). It adds blocks of 32
    columns until they keep the energy, and turns them to the leading directions among them. The energy that a block
    adds is exact. So the search ends at the energy, however the start is drawn, and chance decides the number of
    columns alone. On seeds of a model of 135 million weights, they were 6 % more than the fewest (LOG.md).

    The search takes 4 O J operations a column, an eigendecomposition about 10 n^3 for n rows.

    Args:
        w: [O, J].
        energy: the least share of |W|^2 that the result keeps. 1 keeps all, up to `cap`.
        cap: the largest number r of columns; it can lower the share.
        key: the stream of the start's random signs (gdig.philox).

    Returns:
        U [O, r], V [J, r], and the share of |W|^2 that they keep. A number that is not finite in W makes U and V NaN.
    """
    if w.shape[0] > w.shape[1]:
        v, u, share = factor(w.T, energy, cap, key)
        return u, v, share
    total = _square(w)
    if not total < float("inf"):
        return w[:, :1] * torch.nan, w[:1].T * torch.nan, float("nan")
    if len(w) <= _EXACT_ROWS:
        _, basis = torch.linalg.eigh(_gram(w.T))
        basis = basis.to(w.dtype)
    elif energy >= 1 and cap >= len(w):
        return torch.eye(len(w), dtype=w.dtype, device=w.device), w.T.contiguous(), 1.0
    else:
        wanted = energy * total if energy < 1 else float("inf")
        basis = _search(w, wanted, min(len(w), cap + 2 * _BLOCK), key)
    v = w.T @ basis
    squares, turn = torch.linalg.eigh(_gram(v))
    rank = _cut(squares.flip(0), total, energy, cap)
    turn = turn.flip(1)[:, :rank].to(w.dtype)
    u, v = basis @ turn, v @ turn
    return u, v, _energy_share(u, v, total)


def compress(u: torch.Tensor, v: torch.Tensor, energy: float, cap: int) -> LowRank:
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
    total = float(squares.sum())
    rank = _cut(squares, total, energy, cap)
    if rank >= u.shape[1]:
        return u, v, 1.0  # the tokens of the example are as few columns, and exact
    share = float(squares[:rank].sum()) / total if total > 0 else 1.0
    return (q_u @ left[:, :rank]) * values[:rank], q_v @ right[:rank].T, min(1.0, share)


def _search(w: torch.Tensor, wanted: float, limit: int, key: int) -> torch.Tensor:
    """Return orthonormal columns [O, k], such that W^T times them has a squared norm of `wanted`, or k = `limit`.

    They span the Krylov space of W W^T and W times random signs.
    """
    start = torch.from_numpy(_signs(key, w.shape[1], min(_BLOCK, limit))).to(w)
    basis, y, energy = w.new_zeros(len(w), 0), w @ start, 0.0
    while True:
        block = _orthonormal(y, basis)
        basis = torch.cat([basis, block], dim=1)
        image = w.T @ block  # [J, columns of the block]
        square = _square(image)
        energy += square
        space = limit - basis.shape[1]
        if energy >= wanted or space == 0:
            return basis
        # Without the division, products of tiny numbers are 0 in float32.
        y = w @ (image[:, :space] / (square**0.5 or 1.0))


@lru_cache(maxsize=1)
def _signs(key: int, width: int, columns: int) -> NDArray[np.int8]:
    """Random signs [width, columns]. Seeds of one layer follow one another and have the same."""
    return rademacher(key, width, columns)


def _orthonormal(y: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """Return orthonormal columns, orthogonal to `basis`, whose span with it contains y.

    Where y lies in the span of `basis`, what is left of it is rounding, which a second round makes orthogonal.
    """
    for _ in range(3):
        if basis.shape[1]:
            y = y - basis @ (basis.T @ y)
            y = y - basis @ (basis.T @ y)
        y, _ = torch.linalg.qr(y)
        if not basis.shape[1] or float((basis.T @ y).abs().max()) <= _ORTHOGONAL:
            break
    return y


def _cut(squares: torch.Tensor, total: float, energy: float, cap: int) -> int:
    """Return how many of the falling squared singular values reach `energy` of `total`; at most `cap`, at least 1."""
    if total <= 0:
        return 1
    share = squares.clamp(min=0).cumsum(0) / total
    # An energy of 1 takes every column: by rounding, the sum reaches 1 before the last values, such as 1e-8.
    enough = len(squares) if energy >= 1 else int((share < energy).sum()) + 1
    return min(enough, len(squares), cap)


def _energy_share(u: torch.Tensor, v: torch.Tensor, total: float) -> float:
    """Return 1 - |W - U V^T|^2 / |W|^2 for V = W^T U, whether or not the columns of U are orthonormal to the bit.

    |W - U V^T|^2 = |W|^2 - 2 <W, U V^T> + |U V^T|^2 = |W|^2 - 2 tr(V^T V) + <U^T U, V^T V>.
    """
    if total <= 0:
        return 1.0
    gram = _gram(v)
    rest = total - 2 * float(gram.trace()) + float((_gram(u) * gram).sum())
    return min(1.0, max(0.0, 1 - rest / total))


def _gram(x: torch.Tensor) -> torch.Tensor:
    """Return x^T x in float64."""
    x = x.double()
    return x.T @ x


def _square(x: torch.Tensor) -> float:
    """Return |x|^2, in float64."""
    return float(torch.linalg.vector_norm(x, dtype=torch.float64)) ** 2
