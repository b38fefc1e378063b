"""Bytes of layers in a fit, and the partitions of the layers that fit into memory.

A partition is a set of layers that one run over the sample fits. A layer's sums do not depend on the other layers, so
the partitions change no bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from gdig.influence.factors import WIDE
from gdig.model.causal_model import Model
from gdig.model.layers import Layer
from gdig.ops import triangle_numbers

_EIGH_COPIES = 5
"""Matrices of the size of a factor that its eigendecomposition holds: the matrix twice, the result, LAPACK's work."""


@dataclass(frozen=True)
class FitBytes:
    """Bytes of some layers in a fit.

    Attributes:
        triangles: the sums of A and S; on the CPU with their totals beside them.
        bases: Q_A and Q_S.
        squares: the sums that give L; on the CPU with their totals.
        work: one eigendecomposition.
        host_totals: totals in the computer's memory, for layers on another device.
    """

    triangles: int = 0
    bases: int = 0
    squares: int = 0
    work: int = 0
    host_totals: int = 0

    @classmethod
    def of(cls, layer: Layer, model: Model) -> FitBytes:
        """Of one layer. A layer that reads another layer's input has no A of its own."""
        item = torch.promote_types(model.dtype, torch.float32).itemsize
        j, o = layer.width, layer.out_features
        widths = (j, o) if layer.input_name == layer.name else (o,)
        bases = sum(width * width for width in widths) * item
        work = max(_EIGH_COPIES * width * width * (item if width >= WIDE else 8) for width in widths)
        if layer.device.type == "cpu":
            return cls(2 * sum(map(triangle_numbers, widths)) * item, bases, 2 * o * j * item, work)
        return cls(bases, bases, o * j * item, work, max(bases, o * j * item))

    def __add__(self, other: FitBytes) -> FitBytes:
        return FitBytes(
            self.triangles + other.triangles,
            self.bases + other.bases,
            self.squares + other.squares,
            max(self.work, other.work),
            self.host_totals + other.host_totals,
        )

    @property
    def eigenvectors(self) -> int:
        """While the eigenvectors replace the totals one by one."""
        return max(self.triangles // 2, self.bases) + self.work

    def beside(self, activations: int) -> int:
        """The most that a fit of the layers holds, with a batch that holds `activations` bytes in its passes."""
        return max(max(self.triangles, self.bases + self.squares) + activations, self.eigenvectors)


def added(sizes: Iterable[FitBytes]) -> FitBytes:
    """The bytes of several layers together."""
    return sum(sizes, FitBytes())


def layer_groups(layers: Sequence[Layer]) -> list[list[int]]:
    """Indices of layers that stay together: those that share an input share the sums of A, and of a matrix of experts
    those with few tokens take the sums of all.

    Such layers follow one another in every model that we know. Where others lie between, these join.
    """
    names = [
        (layer.input_name, layer.expert.matrix if layer.expert is not None else layer.input_name) for layer in layers
    ]
    last = {name: index for index, pair in enumerate(names) for name in pair}
    groups: list[list[int]] = []
    end = -1
    for index, pair in enumerate(names):
        if index > end:
            groups.append([])
        groups[-1].append(index)
        end = max(end, *(last[name] for name in pair))
    return groups


def fill_partitions(
    groups: Sequence[list[int]], sizes: Sequence[FitBytes], fits: Callable[[FitBytes, int], bool]
) -> list[list[int]] | None:
    """Fill partitions one after another, as long as they fit. None: a group alone does not fit."""
    partitions: list[list[int]] = []
    held = FitBytes()
    for group in groups:
        alone = added(sizes[index] for index in group)
        if not fits(alone, group[0]):
            return None
        if partitions and fits(held + alone, partitions[-1][0]):
            partitions[-1] += group
            held = held + alone
        else:
            partitions.append(list(group))
            held = alone
    return partitions
