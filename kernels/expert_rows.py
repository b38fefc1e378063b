"""The rows that the experts of a matrix see: runs by expert, and within an expert by example."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from itertools import pairwise

import torch

from gdig.kernels.segments import Segments


class ExpertRows:
    """Rows sorted by expert, and those of an expert by example.

    Expert n sees of example e the rows offsets[n, e] .. offsets[n, e + 1] - 1, which can be none. The rows of an expert
    begin where those of the expert before end. A batch has one object for both matrices of a block's experts.

    Args:
        offsets: [E, B + 1] int64 on the CPU, rising from 0.

    Attributes:
        examples: B.
        bounds: Python numbers: expert n has the rows bounds[n] .. bounds[n + 1] - 1.
        end: the number of rows.

    Raises:
        ValueError: when the offsets have another shape, dtype or device, do not rise from 0, or leave rows to nobody.
    """

    def __init__(self, offsets: torch.Tensor) -> None:
        if offsets.dim() != 2 or 0 in offsets.shape or offsets.dtype != torch.int64 or offsets.device.type != "cpu":
            got = f"{offsets.dtype} {tuple(offsets.shape)} on {offsets.device}"
            raise ValueError(f"offsets: expected int64 [E, B + 1] on the CPU, got {got}")
        self.offsets = offsets
        self.examples = offsets.shape[1] - 1
        ends = offsets[:, -1].tolist()
        self.bounds: list[int] = [0, *ends]
        self.end: int = ends[-1]
        if offsets[:, 0].tolist() != self.bounds[:-1] or any(i > j for i, j in pairwise(offsets.flatten().tolist())):
            raise ValueError(
                "offsets: expected numbers that rise from 0, each expert's from the end of the one before, got "
                f"{offsets.tolist()[:4]}"
            )
        self._on: dict[torch.device, torch.Tensor] = {}

    def __len__(self) -> int:
        """E."""
        return len(self.bounds) - 1

    @cached_property
    def of_experts(self) -> list[Segments]:
        """For each expert its rows of each example, counted from its first row."""
        return [Segments(own) for own in (self.offsets - self.offsets[:, :1]).unbind()]

    def segments(self, first: int, last: int) -> Segments:
        """The rows of the experts first .. last - 1: a segment for each expert and example, expert by expert."""
        ends = self.offsets[first:last, 1:].flatten() - self.bounds[first]
        return Segments(torch.cat([ends.new_zeros(1), ends]))

    @cached_property
    def longest(self) -> int:
        """The most rows that an expert sees of an example."""
        return int(self.offsets.diff().max()) if self.examples else 0

    def tiles(self, height: int, experts: Iterable[int]) -> list[tuple[int, int, int]]:
        """The tiles of at most `height` rows of some experts: the first row, the expert's last row + 1, the expert."""
        return [
            (first, self.bounds[n + 1], n)
            for n in experts
            for first in range(self.bounds[n], self.bounds[n + 1], height)
        ]

    def on(self, device: torch.device) -> torch.Tensor:
        """The offsets on a device, copied there once."""
        if device not in self._on:
            self._on[device] = on_device(self.offsets, device)
        return self._on[device]


def on_device(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a small tensor of the CPU to a device, without waiting for the device."""
    return x if device.type == "cpu" else x.pin_memory().to(device, non_blocking=True)
