"""Segments: runs of consecutive rows, such as the tokens of each example or the columns of each seed."""

from __future__ import annotations

from functools import cached_property
from math import gcd

import torch


class Segments:
    """Runs of rows. Segment k has the rows offsets[k] .. offsets[k + 1] - 1, and can be empty.

    A batch has one object for all layers, so that a layer copies nothing to the device and reads nothing back.

    Args:
        offsets: [n + 1] int64 on the CPU, rising from 0.
        on_device: the offsets on devices that have them already.

    Raises:
        ValueError: when the offsets have another shape, dtype or device, or do not rise from 0.
    """

    def __init__(self, offsets: torch.Tensor, on_device: dict[torch.device, torch.Tensor] | None = None) -> None:
        if offsets.dim() != 1 or len(offsets) == 0 or offsets.dtype != torch.int64 or offsets.device.type != "cpu":
            got = f"{offsets.dtype} {tuple(offsets.shape)} on {offsets.device}"
            raise ValueError(f"offsets: expected int64 [n + 1] on the CPU, got {got}")
        self.offsets = offsets
        self.lengths = offsets.diff()
        if int(offsets[0]) != 0 or bool((self.lengths < 0).any()):
            raise ValueError(f"offsets: expected numbers that rise from 0, got {offsets.tolist()[:8]}")
        self.end = int(offsets[-1])
        self.longest = int(self.lengths.max()) if len(self.lengths) else 0
        self._on: dict[torch.device, torch.Tensor] = dict(on_device or {})

    @classmethod
    def of(cls, offsets: torch.Tensor | Segments) -> Segments:
        """The segments of offsets, or the segments given."""
        return offsets if isinstance(offsets, cls) else cls(offsets)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def bounds(self) -> list[int]:
        """The offsets as Python numbers."""
        return self.offsets.tolist()

    @cached_property
    def uniform(self) -> int | None:
        """The length of all segments; None when the lengths differ or there is no segment."""
        same = len(self.lengths) > 0 and bool((self.lengths == self.lengths[0]).all())
        return int(self.lengths[0]) if same else None

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
