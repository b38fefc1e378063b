"""A thread that works beside the main thread, in order, and whose errors are raised."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any


class Background:
    """One thread that does the submitted tasks in order.

    The `with` block waits at its end for all tasks, and raises the error of a task. After an error in the block, the
    submitted tasks are still done, and the block's error is raised.

    Args:
        ahead: how many unfinished tasks `submit` does not wait for, which bounds the memory of the tasks.
    """

    def __init__(self, ahead: int = 1) -> None:
        self._ahead = ahead
        self._tasks: deque[Future] = deque()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="gdig-background")

    def submit(self, work: Callable[..., object], *args: Any) -> None:
        """Do work(*args) after all tasks submitted before. Raise the error of an earlier task."""
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
