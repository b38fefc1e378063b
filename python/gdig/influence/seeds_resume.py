"""The resume files of the seeds: one for each preconditioned seed, until all seeds are, partition by partition."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from numpy.typing import NDArray

from gdig.errors import StoreError
from gdig.run.resume_layout import layers_key, partition_file, products_file, seed_file, seed_files
from gdig.store.resume_file import Pace, ResumeFile, Tensors
from gdig.store.tensor_file import Named

Seed = TypeVar("Seed")


class Content(Protocol):
    """A preconditioned seed that can be written."""

    def content(self) -> tuple[Tensors, dict[str, str]]:
        """Return the tensors and the metadata of a file."""


@dataclass(frozen=True)
class SeedsResume:
    """Where the resume files of the seeds are.

    Attributes:
        folder: the folder of the files.
        origin: a hash of all that a seed depends on besides its number and its layers.
        warn: prints a message.
        clock: seconds from any origin, never going back.
    """

    folder: Path
    origin: str
    warn: Callable[[str], object]
    clock: Callable[[], float] = field(default=time.monotonic)

    def token_batch_size(self) -> int | None:
        """Return what :meth:`keep_token_batch_size` kept. Rank 0 calls both."""
        file = self._products
        if (content := file.read()) is None:
            return None
        text = content[1].get("token_batch_size", "")
        if re.fullmatch(r"[1-9][0-9]{0,8}", text):
            return int(text)
        file.discard(f"{file.path}: names no token_batch_size")
        return None

    def keep_token_batch_size(self, size: int) -> None:
        """Keep the batches of the products of all searches. "auto" might take others when less memory is free."""
        self._products.write({}, {"token_batch_size": str(size)})

    @property
    def _products(self) -> ResumeFile:
        return ResumeFile(products_file(self.folder), {"origin": self.origin}, self.warn)

    def of_partition(self, layers: Sequence[str]) -> PartitionSeeds:
        """Return what keeps the seeds in some layers, by the layers' names."""
        return PartitionSeeds(self.folder, self.origin, layers, self.warn, Pace(self.clock))


class PartitionSeeds:
    """Keeps the seeds that are preconditioned in the layers of a partition.

    Args:
        folder: the folder of the files.
        origin: a hash of all that a seed depends on besides its number and its layers.
        layers: the names of the layers.
        warn: prints a message.
        pace: says when to write.

    Attributes:
        folder, warn, pace: as given; what keeps the searches for the seeds shares them.
        made_from: what a seed depends on besides its number, by name: JSON values.
    """

    def __init__(
        self, folder: Path, origin: str, layers: Sequence[str], warn: Callable[[str], object], pace: Pace
    ) -> None:
        self.folder, self._layers, self.warn, self.pace = folder, tuple(layers), warn, pace
        self.made_from = {"origin": origin, "layers": layers_key(layers)}
        self._unsaved: dict[int, Content] = {}

    def load(self, number: int, decode: Callable[[Named[NDArray[Any]], Named[str]], Seed]) -> Seed | None:
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
        except (ValueError, RecursionError, StoreError) as error:
            file.discard(f"{file.path}: holds no seed of these layers ({error})")
            return None

    def keep(self, number: int, seed: Content, *, now: bool = False) -> None:
        """Keep a seed. The files of the seeds since the last time are written if they are due, or `now`."""
        self._unsaved[number] = seed
        if now or self.pace.due():
            self.save()

    def save(self) -> None:
        """Write the files of all seeds that have none."""
        with self.pace.writing():
            while self._unsaved:
                number, seed = self._unsaved.popitem()
                self._file(number).write(*seed.content())

    def end_partition(self, facts: Sequence[dict[str, Any]]) -> None:
        """Keep that the files of the partition's layers are complete, and let go of the seeds. Rank 0 calls this.

        Args:
            facts: what the report on the seeds says of each seed in these layers: JSON values.
        """
        self._partition.write({}, {"facts": json.dumps(list(facts))})
        for path in seed_files(self.folder):
            path.unlink(missing_ok=True)

    def facts(self, are_sound: Callable[[Any], bool]) -> list[dict[str, Any]] | None:
        """Return the facts of a partition that an earlier start has completed. Rank 0 calls this.

        Args:
            are_sound: whether a JSON value is the facts of all seeds.
        """
        if (content := self._partition.read()) is None:
            return None
        try:
            facts = json.loads(content[1].get("facts", "null"))
        except (ValueError, RecursionError):
            facts = None
        if are_sound(facts):
            return cast("list[dict[str, Any]]", facts)
        self._partition.discard(f"{self._partition.path}: holds no facts of these seeds")
        return None

    @property
    def _partition(self) -> ResumeFile:
        return ResumeFile(partition_file(self.folder, self._layers), self.made_from, self.warn)

    def _file(self, number: int) -> ResumeFile:
        return ResumeFile(seed_file(self.folder, number), self.made_from, self.warn)
