"""The resume files of the seeds: one for each preconditioned seed, until all seeds are."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from gdig.errors import StoreError
from gdig.store.resume_file import Pace, ResumeFile, Tensors

Seed = TypeVar("Seed")


class Content(Protocol):
    """A preconditioned seed that can be written."""

    def content(self) -> tuple[Tensors, dict[str, str]]:
        """Return the tensors and the metadata of a file."""


class SeedsResume:
    """Keeps the seeds that are preconditioned.

    Args:
        folder: the folder of the files.
        origin: a hash of all that a seed depends on besides its number.
        warn: prints a message.
        clock: seconds from any origin, never going back.
    """

    def __init__(
        self, folder: Path, origin: str, warn: Callable[[str], object], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.folder, self._origin, self._warn = folder, origin, warn
        self._pace = Pace(clock)
        self._unsaved: dict[int, Content] = {}

    def load(self, number: int, decode: Callable[[Tensors, dict[str, str]], Seed]) -> Seed | None:
        """Read a seed; None if no earlier start has kept it.

        Args:
            number: of the seed.
            decode: makes a seed of the tensors and the metadata of its file.
        """
        file = self._file(number)
        if (content := file.read()) is None:
            return None
        try:
            return decode(*content)
        except (KeyError, ValueError, TypeError, StoreError) as error:
            file.discard(f"{file.path}: holds no seed of these layers ({error!r})")
            return None

    def keep(self, number: int, seed: Content, *, now: bool = False) -> None:
        """Keep a seed. The files of the seeds since the last time are written if they are due, or `now`."""
        self._unsaved[number] = seed
        if now or self._pace.due():
            self.save()

    def save(self) -> None:
        """Write the files of all seeds that have none."""
        with self._pace.writing():
            while self._unsaved:
                number, seed = self._unsaved.popitem()
                self._file(number).write(*seed.content())

    def _file(self, number: int) -> ResumeFile:
        return ResumeFile(self.folder / f"{number:08d}.safetensors", {"origin": self._origin}, self._warn)
