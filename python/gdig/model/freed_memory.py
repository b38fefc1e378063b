"""Memory that this process has freed, and that the C library still holds: handed back to the system between batches.

The tensors of a batch have many sizes, and those of the next batch have others. glibc keeps what is freed between
them for itself, so a process grows from batch to batch beyond what its tensors take.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from functools import cache

_REST = 50
"""Handing back takes at most one part in this many of the time."""


class FreedMemory:
    """Hands freed memory back, as often as it costs little time.

    Args:
        clock: seconds from any origin, never going back.
        trim: hands back all that is freed. None: the C library cannot.
    """

    def __init__(
        self, clock: Callable[[], float] = time.perf_counter, trim: Callable[[], object] | None = None
    ) -> None:
        self._clock, self._trim = clock, trim or _malloc_trim()
        self._next = -float("inf")

    def hand_back(self) -> None:
        """Hand freed memory back, unless that would take more than a fiftieth of the time."""
        begun = self._clock()
        if self._trim is None or begun < self._next:
            return
        self._trim()
        ended = self._clock()
        self._next = ended + _REST * (ended - begun)


@cache
def _malloc_trim() -> Callable[[], object] | None:
    """glibc's function; None where the C library is another one."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
    return lambda: trim(ctypes.c_size_t(0))
