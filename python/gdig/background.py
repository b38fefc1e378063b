"""Work done beside the main thread, in order, with errors that are not lost."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any


class Background:
    """One thread that does what it is given, in order.

    `submit` waits while more than `ahead` tasks are not done, so that what they hold in memory is bounded, and raises
    the error of an earlier task. Leaving the `with` block waits for all of them; after an error inside the block, what
    was submitted before is still done, and the block's error is the one raised.
    """

    def __init__(self, ahead: int = 1) -> None:
        self._ahead = ahead
        self._tasks: deque[Future] = deque()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="gdig-background")

    def submit(self, work: Callable[..., object], *args: Any) -> None:
        """Do work(*args) after what was submitted before."""
        while len(self._tasks) > self._ahead:
            self._tasks.popleft().result()
        self._tasks.append(self._pool.submit(work, *args))

    def __enter__(self) -> Background:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.shutdown(wait=True)
        if error is None:
            for task in self._tasks:
                task.result()
