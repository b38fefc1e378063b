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
        self._unsent, self._shown, self._last = [0] * 4, [0] * 4, time.monotonic()

    def advance(self, k: int, note: str = "", *, tokens: int = 0) -> None:
        """Count `k` more units of this rank as done, for which `tokens` tokens went through its model."""
        if self._bar is not None:
            self._bar.advance(k, note, tokens=tokens)
        self._count(k, tokens, 0, 0)

    def skip(self, k: int, *, tokens: int = 0) -> None:
        """Count `k` more units of this rank that an earlier start finished."""
        if self._bar is not None:
            self._bar.skip(k, tokens=tokens)
        self._count(0, 0, k, tokens)

    def _count(self, *counts: int) -> None:
        if self._bar is None:
            self._unsent = [unsent + count for unsent, count in zip(self._unsent, counts, strict=True)]
        if time.monotonic() - self._last > _INTERVAL_S:
            self.synchronize()

    def synchronize(self) -> None:
        """Send this rank's counts to the store; on rank 0, show what other ranks have sent."""
        self._last = time.monotonic()
        totals = [self._store.add(f"{self._key}/{i}", unsent) for i, unsent in enumerate(self._unsent)]
        self._unsent = [0] * 4
        if self._bar is not None and totals != self._shown:
            k, tokens, skipped, tokens_skipped = (a - b for a, b in zip(totals, self._shown, strict=True))
            self._shown = totals
            self._bar.skip(skipped, tokens=tokens_skipped)
            self._bar.advance(k, tokens=tokens)
