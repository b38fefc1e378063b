"""The peak of a process's own memory: without the pages of mapped files, which the system drops when it needs room."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_INTERVAL_S = 0.02


@contextmanager
def anonymous_peak() -> Iterator[list[int]]:
    """Yield a list whose only number is the peak so far, in bytes, of what the block adds to the process."""
    peak, over = [0], threading.Event()
    before = _anonymous()

    def watch() -> None:
        while not over.wait(_INTERVAL_S):
            peak[0] = max(peak[0], _anonymous() - before)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def _anonymous() -> int:
    match = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(match[1]) * 1024 if match else 0
