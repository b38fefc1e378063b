"""Several processes at one run: who does what, how they wait, and what is said when one of them fails.

Rank 0 goes through a run as one process would. Where work is shared it names a task, for which the other ranks wait,
and all do it side by side, each its own part. Words go through the key-value store that the launcher (torchrun) keeps
(:mod:`gdig.distributed.torchrun`), tensors through :mod:`gdig.distributed.tensors`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gdig.progress import Bar


class Ranks:
    """One process alone, which is rank 0 of 1: every exchange is with itself."""

    rank = 0
    world = 1
    local_world = 1

    @property
    def main(self) -> bool:
        """Whether this is the rank that does what is not shared."""
        return self.rank == 0

    def task(self, name: str, **arguments: Any) -> None:
        """Rank 0: have the others do a task, too; `arguments` are JSON."""

    def tasks(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Other ranks: the tasks, as they come, until the run ends."""
        return iter(())

    def doing(self, what: str) -> None:
        """Say what this rank is about, for the message if it should be lost."""

    def gather(self, value: Any, bar: Bar | None = None) -> list[Any]:
        """Give a JSON value, wait for all ranks to do so, and return all values by rank. `bar`: of `shared`."""
        return [value]

    def claim(self, n: int) -> Iterator[int]:
        """Yield numbers of 0 .. n - 1: each goes to one rank, to whoever asks next."""
        yield from range(n)

    def shared(self, bar: Bar) -> Bar:
        """A bar that shows on rank 0 what all ranks have advanced."""
        return bar

    def first(self, text: str) -> bool:
        """Whether this rank is the first to ask this: what all would say is said once."""
        return True

    def device(self, asked: str) -> str:
        """The device of this rank, for the option `device`."""
        return asked

    def threads(self, asked: int | None) -> int | None:
        """CPU threads of this rank, for the option `threads`."""
        return asked

    def owners(self, n: int) -> list[int]:
        """The rank that each of n layers belongs to."""
        return [i % self.world for i in range(n)]

    def part(self, n: int) -> range:
        """This rank's share of 0 .. n - 1: a run of numbers; the ranks' shares follow one another."""
        return range(n * self.rank // self.world, n * (self.rank + 1) // self.world)
