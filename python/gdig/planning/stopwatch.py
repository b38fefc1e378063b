"""Seconds of a piece of work, on any device."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import torch

_TIMES = 3
_SHORT_S = 0.05


class Stopwatch:
    """Measures work.

    Args:
        clock: seconds from any origin, never going back.
        device: the device that works; a measurement waits for it.
    """

    def __init__(self, clock: Callable[[], float], device: torch.device) -> None:
        self._clock, self._device = clock, device

    def now(self) -> float:
        """Seconds, once the device has done all that it was asked."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return self._clock()

    def seconds(self, work: Callable[[], object]) -> float:
        """The seconds of some work. Work of milliseconds is done three times, and the median counts."""
        times: list[float] = []
        while len(times) < _TIMES and sum(times) < _SHORT_S:
            begun = self.now()
            work()
            times.append(self.now() - begun)
        return median(times)
