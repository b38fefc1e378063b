"""How long something takes on a device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

# Bytes: more than any L2 cache holds, and so many that clearing them takes longer than Python takes for the launch.
# Otherwise the clock would measure Python: a launch takes 60 to 90 us of it, the fastest kernel 40 us.
_FLUSH = 1 << 30


class Clock:
    """Medians of single runs, each begun with a cold L2 cache (on the CPU: as it is)."""

    def __init__(self, device: torch.device, repeats: int = 20) -> None:
        self._device, self._repeats = device, repeats
        size = _FLUSH if device.type == "cuda" else 0
        self._flush = torch.empty(size, dtype=torch.int8, device=device)

    def median(self, run: Callable[[], object], repeats: int | None = None) -> float:
        """Seconds of a run, after two that do not count."""
        repeats = repeats or self._repeats
        for _ in range(2 if repeats > 1 else 0):
            run()
        return statistics.median(self._once(run) for _ in range(repeats))

    def _once(self, run: Callable[[], object]) -> float:
        if self._device.type != "cuda":
            start = time.perf_counter()
            run()
            return time.perf_counter() - start
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._flush.zero_()
        begin.record()
        run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3
