"""Stops a run at a call, as Ctrl-C does, so that a test sees what is kept."""

from __future__ import annotations

from collections.abc import Callable

import pytest


class Stop(BaseException):
    """Ends a run at once, as Ctrl-C does."""


class StopAt:
    """stop_at(n): the n-th call of a method from now on raises Stop; with None, no call does.

    Args:
        monkeypatch: puts the method back.
        owner, name: the class and its method.
        note: what to note of a call, by its arguments.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, note: Callable[..., int]) -> None:
        self._calls: list[int] = []
        self._limit: int | None = None
        method = getattr(owner, name)

        def counted(instance, *args, **options):
            self._calls.append(note(*args, **options))
            if len(self._calls) == self._limit:
                raise Stop
            return method(instance, *args, **options)

        monkeypatch.setattr(owner, name, counted)

    def __call__(self, n: int | None) -> list[int]:
        """Return the notes of the calls from now on, with that of the call that raises."""
        self._calls.clear()
        self._limit = n
        return self._calls
