"""A layer's projections in the layout of the tensor cores, and its sparse map inverted: made once, for all batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gdig.kernels.factors import scaled


@dataclass(frozen=True)
class Prepared:
    """P and Q with their rows padded to side', a power of two of at least 16, and the sources of each sketch column.

    Attributes:
        p: [side', O'] in the dtype of the activations, each row over a power of two. q: [side', I'].
        p_scale, q_scale: float32 [side'], the powers of two.
        bias: float32 [side'], the last column of Q; None without bias.
        weights: float32 [side' * side'], zero in the padding.
        table: int16 [depth, dim], the entries of the side' x side' block that are added to a column; -1 is no entry.
            depth is a power of two.
    """

    p: torch.Tensor
    q: torch.Tensor
    p_scale: torch.Tensor
    q_scale: torch.Tensor
    bias: torch.Tensor | None
    weights: torch.Tensor
    table: torch.Tensor

    def fits(self, side: int, a: torch.Tensor | None, bias: bool, d: torch.Tensor, out: torch.Tensor) -> bool:
        """Whether this can have been prepared for such inputs. a is None when it is projected already."""
        return (
            self.p.dtype == d.dtype
            and self.p.device == d.device
            and len(self.p) == padded_side(side)
            and self.p.shape[1] >= d.shape[1]
            and self.table.shape[1] == out.shape[1]
            and (a is None or (self.q.shape[1] >= a.shape[1] and (self.bias is not None) == bias))
        )


def padded_side(side: int) -> int:
    """The next power of two that is at least 16, the smallest side for tensor cores."""
    return max(16, 1 << (side - 1).bit_length())


def prepare(
    q: torch.Tensor, p: torch.Tensor, columns: torch.Tensor, weights: torch.Tensor, width: int, dim: int,
    dtype: torch.dtype,
) -> Prepared:  # fmt: skip
    """Pad, scale, round and invert. q [side, I] or [side, I + 1], p [side, O], width: I, dim: of the sketch."""
    side, wide = len(p), padded_side(len(p))

    def padded(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(x, (0, 0) * (x.dim() - 1) + (0, wide - side))

    (left, left_scale), (right, right_scale) = scaled(padded(p), dtype), scaled(padded(q[:, :width]), dtype)
    grid = torch.zeros(wide, wide, dtype=torch.float32, device=p.device)
    grid[:side, :side] = weights.view(side, side)
    # The entries in the order of their columns, and the place of each entry among those of its column.
    order = torch.argsort(columns, stable=True)
    column = columns[order]
    counts = torch.bincount(columns, minlength=dim)
    place = torch.arange(len(order), device=p.device) - (counts.cumsum(0) - counts)[column]
    depth = 1 << max(0, int(counts.max()) - 1).bit_length()
    table = torch.full((depth, dim), -1, dtype=torch.int16, device=p.device)
    table[place, column] = (order // side * wide + order % side).to(torch.int16)
    bias = padded(q[:, width]).float() if q.shape[1] > width else None
    return Prepared(left, right, left_scale, right_scale, bias, grid.flatten(), table)


@dataclass(frozen=True)
class PreparedExperts:
    """The projections of all E experts of a matrix, as in `Prepared`, one after another.

    p: [E * side', O']. q: [E * side', I']. p_scale, q_scale: [E * side']. bias: [E * side'], or None. weights:
    [E, side' * side']. table: int16 [E, depth, dim].
    """

    p: torch.Tensor
    q: torch.Tensor
    p_scale: torch.Tensor
    q_scale: torch.Tensor
    bias: torch.Tensor | None
    weights: torch.Tensor
    table: torch.Tensor

    def fits(self, side: int, a: torch.Tensor, bias: bool, d: torch.Tensor, out: torch.Tensor, experts: int) -> bool:
        """Whether this can have been prepared for such inputs."""
        return (
            self.p.dtype == d.dtype == a.dtype
            and self.p.device == d.device
            and len(self.p) == experts * padded_side(side)
            and self.p.shape[1] >= d.shape[1]
            and self.q.shape[1] >= a.shape[1]
            and self.table.shape[::2] == (experts, out.shape[1])
            and (self.bias is not None) == bias
        )


def prepare_experts(
    projections: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]], width: int, dim: int,
    dtype: torch.dtype,
) -> PreparedExperts:  # fmt: skip
    """As `prepare`, of q, p, columns and weights of each expert."""
    parts = [prepare(q, p, columns, weights, width, dim, dtype) for q, p, columns, weights in projections]
    depth = max(len(part.table) for part in parts)
    tables = [torch.nn.functional.pad(part.table, (0, 0, 0, depth - len(part.table)), value=-1) for part in parts]
    biases = [part.bias for part in parts if part.bias is not None]
    return PreparedExperts(
        torch.cat([part.p for part in parts]),
        torch.cat([part.q for part in parts]),
        torch.cat([part.p_scale for part in parts]),
        torch.cat([part.q_scale for part in parts]),
        torch.cat(biases) if biases else None,
        torch.stack([part.weights for part in parts]),
        torch.stack(tables),
    )
