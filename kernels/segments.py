"""Segments: runs of consecutive rows, such as the tokens of each example or the columns of each seed."""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise
from math import gcd

import torch


class Segments:
    """Runs of rows. Segment k has the rows offsets[k] .. offsets[k + 1] - 1, and can be empty.

    A batch has one object for all layers, so that a layer copies nothing to the device and reads nothing back.

    Args:
        offsets: [n + 1] int64 on the CPU, rising from 0.
        on_device: the offsets on devices that have them already.

    Attributes:
        bounds: the offsets as Python numbers. end: the last of them.

    Raises:
        ValueError: when the offsets have another shape, dtype or device, or do not rise from 0.
    """

    def __init__(self, offsets: torch.Tensor, on_device: dict[torch.device, torch.Tensor] | None = None) -> None:
        if offsets.dim() != 1 or len(offsets) == 0 or offsets.dtype != torch.int64 or offsets.device.type != "cpu":
            got = f"{offsets.dtype} {tuple(offsets.shape)} on {offsets.device}"
            raise ValueError(f"offsets: expected int64 [n + 1] on the CPU, got {got}")
        self.offsets = offsets
        # Python numbers: each expert of each batch has segments, and a call of torch costs more than all of them.
        self.bounds: list[int] = offsets.tolist()
        if self.bounds[0] != 0 or any(i > j for i, j in pairwise(self.bounds)):
            raise ValueError(f"offsets: expected numbers that rise from 0, got {self.bounds[:8]}")
        self.end = self.bounds[-1]
        self._on: dict[torch.device, torch.Tensor] = dict(on_device or {})

    @classmethod
    def of(cls, offsets: torch.Tensor | Segments) -> Segments:
        """The segments of offsets, or the segments given."""
        return offsets if isinstance(offsets, cls) else cls(offsets)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @cached_property
    def lengths(self) -> torch.Tensor:
        """The length of each segment: int64 [n], on the CPU."""
        return self.offsets.diff()

    @cached_property
    def longest(self) -> int:
        """The length of the longest segment; 0 without segments."""
        return max((j - i for i, j in pairwise(self.bounds)), default=0)

    @cached_property
    def uniform(self) -> int | None:
        """The length of all segments; None when the lengths differ or there is no segment."""
        lengths = {j - i for i, j in pairwise(self.bounds)}
        return lengths.pop() if len(lengths) == 1 else None

    @cached_property
    def padded(self) -> torch.Tensor:
        """The place of each row in a rectangle [n, longest] whose lines begin with the segments: int64 [end], on the
        CPU."""
        line = torch.repeat_interleave(torch.arange(len(self)), self.lengths)
        return torch.arange(self.end) + line * self.longest - self.offsets[line]

    @cached_property
    def grain(self) -> int:
        """The largest power of two that divides the start of each segment; 0 when all start at 0 or at the end.

        With a grain g, none of the groups of rows 0 .. g - 1, g .. 2 g - 1, ... has rows of two segments.
        """
        common = gcd(*self.offsets[self.offsets < self.end].tolist())
        return common & -common

    def on(self, device: torch.device) -> torch.Tensor:
        """The offsets on a device, copied there once."""
        if device.type == "cpu":
            return self.offsets
        if device not in self._on:
            self._on[device] = self.offsets.pin_memory().to(device, non_blocking=True)
        return self._on[device]
