"""A progress bar of all ranks."""

from __future__ import annotations

import time
from typing import Any

from gdig.progress import Bar

_INTERVAL_S = 0.5
"""Shortest time between two questions to the store while a rank advances."""


class SharedBar:
    """Adds up what the ranks advance, in the store; rank 0 shows the total.

    Args:
        store: a torch.distributed.Store that all ranks share.
        key: the bar's key.
        bar: where the total is shown on rank 0; None on other ranks.
    """

    def __init__(self, store: Any, key: str, bar: Bar | None) -> None:
        self._store, self._key, self._bar = store, key, bar
        self._unsent, self._shown, self._last = 0, 0, time.monotonic()

    def advance(self, k: int, note: str = "") -> None:
        """Count `k` more units of this rank as done."""
        if self._bar is None:
            self._unsent += k
        else:
            self._bar.advance(k, note)
        if time.monotonic() - self._last > _INTERVAL_S:
            self.synchronize()

    def synchronize(self) -> None:
        """Send this rank's units to the store; on rank 0, show the units that other ranks have sent."""
        self._last = time.monotonic()
        total, self._unsent = self._store.add(self._key, self._unsent), 0
        if self._bar is not None and total > self._shown:
            self._bar.advance(total - self._shown)
            self._shown = total
