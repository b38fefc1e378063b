"""Resume files: what a pass has done so far, so that a later start goes on from there to the same bits.

A resume file says what it was made from. A file that is damaged, or that was made from something else, is discarded
with a message.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from gdig.errors import StoreError
from gdig.store.tensor_file import Named, read_tensors, write_tensors

INTERVAL_S = 60.0
"""The time between two writes of resume files, which is what a killed process loses. The environment variable
GDIG_RESUME_INTERVAL sets another number of seconds; 0 writes after every batch."""
_LONGEST_S = 120.0
"""The longest interval, as long as writing takes less than a fifth of it."""
_SHARE, _MOST_SHARE = 0.05, 0.2
"""The share of the time that goes into resume files. The interval grows where writing takes more than the first, up to
the longest; beyond that, where it takes more than the second."""

Tensors = dict[str, NDArray[Any]]


class Pace:
    """Says when the next resume file is due.

    Args:
        clock: seconds from any origin, never going back. A test can set the clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._interval = float(os.environ.get("GDIG_RESUME_INTERVAL", INTERVAL_S))
        self._cost = 0.0
        self._last = clock()

    def due(self, ahead_s: float = 0.0) -> bool:
        """Whether the interval is over, or will be in `ahead_s` seconds."""
        longer = max(min(self._cost / _SHARE, _LONGEST_S), self._cost / _MOST_SHARE)
        return self._clock() + ahead_s - self._last >= (max(self._interval, longer) if self._interval > 0 else 0.0)

    def restart(self) -> None:
        """Begin an interval: all that is done is on disk."""
        self._last = self._clock()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Measure the block, which writes, and begin an interval."""
        start = self._last = self._clock()
        try:
            yield
        finally:
            self._last = self._clock()
            self._cost = self._last - start


class ResumeFile:
    """One resume file.

    Args:
        path: the file.
        made_from: what the content depends on, by name: JSON values. The name of the file is added.
        warn: prints a message.
    """

    def __init__(self, path: Path, made_from: Mapping[str, Any], warn: Callable[[str], object]) -> None:
        self.path = path
        self._made_from = {**made_from, "name": path.name}
        self._warn = warn

    def read(self) -> tuple[Named[NDArray[Any]], Named[str]] | None:
        """Read the tensors and the metadata. Discard a file that cannot be used, and return None."""
        if not self.path.is_file():
            return None
        try:
            tensors, metadata = read_tensors(self.path)
        except StoreError as error:
            self.discard(str(error))
            return None
        if difference := _difference(metadata.get("made_from", ""), self._made_from):
            self.discard(f"{self.path}: {difference}")
            return None
        return tensors, metadata

    def write(self, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None) -> bool:
        """Write the file, complete or not at all. A disk that is full is told, and ends nothing.

        Returns:
            Whether the file is written.
        """
        made_from = json.dumps(self._made_from, sort_keys=True)
        try:
            write_tensors(self.path, tensors, {**(metadata or {}), "made_from": made_from})
        except (StoreError, OSError) as error:
            self._warn(f"work in progress is not kept: {error}")
            return False
        return True

    def discard(self, reason: str) -> None:
        """Remove the file, and say why."""
        self._warn(f"{reason}; the resume file is discarded, and its work is done again")
        self.remove()

    def remove(self) -> None:
        """Remove the file where it exists."""
        self.path.unlink(missing_ok=True)


def _difference(text: str, now: Mapping[str, Any]) -> str:
    """Say what differs between the text of a file and what is asked now; nothing if nothing differs."""
    try:
        then = json.loads(text)
    except (ValueError, RecursionError):
        then = None
    if not isinstance(then, dict):
        return "does not say what it was made from"
    keys = [key for key in {**then, **now} if then.get(key) != now.get(key)]
    return "made from " + ", ".join(f"{key} {then.get(key)!r}, now {now.get(key)!r}" for key in keys) if keys else ""
