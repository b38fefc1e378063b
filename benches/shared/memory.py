"""The memory of a process, as Linux counts it; elsewhere only its high-water mark is known."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Peak:
    """The most bytes that were resident while it watched."""

    bytes: int = 0


def resident() -> int:
    """Bytes resident now (where the system does not say: the most so far)."""
    return _read("VmRSS")


@contextmanager
def watch() -> Iterator[Peak]:
    """Reset the high-water mark of the resident set, and read it at the end."""
    peak = Peak()
    if _RESET.exists():
        _RESET.write_text("5")
    yield peak
    peak.bytes = _read("VmHWM")


def _read(field: str) -> int:
    if _STATUS.is_file():
        lines = _STATUS.read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
