"""The interface between a run and the processes that share it, and one process alone.

Rank 0 goes through a run as one process does. Where work is shared, rank 0 names a task, and all ranks do the task side
by side, each its own share. :class:`Ranks` is one process alone; :class:`gdig.distributed.torchrun.TorchrunRanks` is
one of several. Tensors go between ranks through :class:`gdig.distributed.tensors.Exchange`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from gdig.progress import Bar

if TYPE_CHECKING:
    import torch


class Ranks:
    """One process alone, which is rank 0 of 1. Every exchange is with itself."""

    rank = 0
    world = 1
    local_world = 1

    @property
    def main(self) -> bool:
        """Whether this rank is rank 0, which does the work that is not shared."""
        return self.rank == 0

    def task(self, name: str, **arguments: Any) -> None:
        """Rank 0: start a task on all other ranks. The arguments are JSON values."""

    def tasks(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Other ranks: yield the tasks of rank 0, name and arguments, until the run ends."""
        return iter(())

    def doing(self, activity: str) -> None:
        """Note what this rank does; the message about a lost rank quotes the note."""

    def gather(self, value: Any, bar: Bar | None = None) -> list[Any]:
        """Exchange a JSON value: wait for all ranks, and return their values by rank.

        Args:
            value: this rank's value.
            bar: a bar of `shared_bar`, which advances while this rank waits.
        """
        return [value]

    def claim(self, n: int) -> Iterator[int]:
        """Yield numbers of 0 .. n - 1. Each number goes to one rank: the rank that asks next."""
        yield from range(n)

    def shared_bar(self, bar: Bar) -> Bar:
        """Return a bar for all ranks. Rank 0 shows the progress of all of them in `bar`."""
        return bar

    def first_to_say(self, text: str) -> bool:
        """Whether no rank has asked for this text before, so that a warning of all ranks is printed once."""
        return True

    def device(self, option: str) -> str:
        """The device of this rank, from the option `device`."""
        return option

    def threads(self, option: int | None) -> int | None:
        """The number of CPU threads of this rank, from the option `threads`."""
        return option

    def connect(self, device: torch.device) -> bool:
        """Prepare the exchange of tensors on `device`; all ranks call this.

        Returns:
            Whether tensors go from GPU to GPU without the CPU.
        """
        return False

    def owners(self, n: int) -> list[int]:
        """The rank that owns each of n layers."""
        return [i % self.world for i in range(n)]

    def share(self, n: int) -> range:
        """This rank's share of 0 .. n - 1: consecutive numbers. The share of rank r + 1 follows that of rank r."""
        return range(n * self.rank // self.world, n * (self.rank + 1) // self.world)
