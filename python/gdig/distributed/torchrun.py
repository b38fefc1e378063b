"""The ranks that torchrun has started. They exchange words through the store that the launcher keeps."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from gdig.distributed.failure import Terminated, report_failure
from gdig.distributed.heartbeat import START_S, Heartbeat
from gdig.distributed.keys import activity_key, end_key, wait_for_key
from gdig.distributed.ranks import Ranks
from gdig.distributed.shared_bar import SharedBar
from gdig.errors import ConfigError, OtherRankError, RunError
from gdig.progress import Bar

if TYPE_CHECKING:
    import torch

_GOODBYE_S = 30.0
"""So long rank 0, whose launcher keeps the store, waits at the end for the other ranks."""


def is_launched() -> bool:
    """Whether a launcher has started this process as one of several: torchrun's environment variables say so."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


@contextmanager
def join_ranks() -> Iterator[Ranks]:
    """Join the ranks that the launcher has started, or be one process alone. When the block fails, all ranks end.

    Raises:
        OtherRankError: in place of this rank's error, when another rank has failed first and has printed its message.
        RunError: when a rank is lost; the message names the rank and what it did.
    """
    if not is_launched():
        yield Ranks()
        return
    try:
        ranks = TorchrunRanks(*_rendezvous())
    except KeyboardInterrupt:
        if os.environ["RANK"] != "0":  # rank 0 alone prints the message
            raise OtherRankError(130) from None
        raise
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield ranks
    except BaseException as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the launcher ends all ranks when one has failed
        reported = ranks.fail(error)
        if reported is error:
            raise
        raise reported from error
    ranks.close()


class TorchrunRanks(Ranks):
    """This process among `world` processes.

    Args:
        store: a torch.distributed.Store that all ranks share. It must outlive every rank but the last.
        rank: number of this process, 0 to world - 1.
        world: number of processes.
        local_rank: number of this process on its machine.
        local_world: number of processes on its machine.
        wake: called in another thread when a rank has failed while this rank may be at work.
    """

    def __init__(
        self,
        store: Any,
        rank: int,
        world: int,
        local_rank: int = 0,
        local_world: int = 1,
        wake: Callable[[], object] = lambda: os.kill(os.getpid(), signal.SIGTERM),
    ) -> None:
        self.rank, self.world, self.local_rank, self.local_world = rank, world, local_rank, local_world
        self.store = store
        self._counts = {"task": 0, "gather": 0, "claim": 0, "bar": 0}
        self._group_is_direct = False
        self.doing("starting")
        self.heartbeat = Heartbeat(store, rank, world)
        self.heartbeat.start(wake)

    def task(self, name: str, **arguments: Any) -> None:
        """Set the key of the next task."""
        self.doing(name)
        self.store.set(self._next_key("task"), json.dumps([name, arguments]))

    def tasks(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Wait for the key of each next task."""
        while True:
            key = self._next_key("task")
            self.doing("waiting for rank 0")
            wait_for_key(self.store, key)
            name, arguments = json.loads(self.store.get(key))
            if name == "end":
                return
            self.doing(name)
            yield name, arguments

    def doing(self, activity: str) -> None:
        """Set this rank's activity in the store."""
        self.store.set(activity_key(self.rank), activity)

    def gather(self, value: Any, bar: Bar | None = None) -> list[Any]:
        """Set this rank's key, and wait for the keys of all ranks."""
        synchronize = bar.synchronize if isinstance(bar, SharedBar) else lambda: None
        synchronize()
        key = self._next_key("gather")
        self.store.set(f"{key}/{self.rank}", json.dumps(value))
        values = []
        for other in range(self.world):
            wait_for_key(self.store, f"{key}/{other}", poll=synchronize)
            values.append(json.loads(self.store.get(f"{key}/{other}")))
        synchronize()
        return values

    def claim(self, n: int) -> Iterator[int]:
        """Add 1 to a number in the store for each claim; two ranks never get the same sum."""
        key = self._next_key("claim")
        while (number := self.store.add(key, 1) - 1) < n:
            yield number

    def shared_bar(self, bar: Bar) -> Bar:
        """A bar whose total is in the store."""
        return SharedBar(self.store, self._next_key("bar"), bar if self.main else None)

    def first_to_say(self, text: str) -> bool:
        """Count the questions for the text in the store."""
        return self.store.add(f"said/{text}", 1) == 1

    def device(self, option: str) -> str:
        """For "auto" and "cuda": the GPU whose number is the rank's number on its machine.

        Raises:
            ConfigError: when the machine has fewer GPUs than ranks.
        """
        import torch

        if option not in ("auto", "cuda") or not torch.cuda.is_available():
            return option
        if self.local_world > (n_devices := torch.cuda.device_count()):
            host = self.heartbeat.processes[self.rank].host
            raise ConfigError(
                f"device: {self.local_world} processes on {host}, expected at most {n_devices}, because torch sees "
                f"{n_devices} CUDA devices there; start one process a device"
            )
        return f"cuda:{self.local_rank}"

    def threads(self, option: int | None) -> int | None:
        """Without a number: this rank's share of its machine's processors."""
        return option if option is not None else max(1, (os.cpu_count() or 1) // self.local_world)

    def connect(self, device: torch.device) -> bool:
        """Make the process group at the first call."""
        import torch.distributed as dist

        from gdig.distributed.process_group import is_direct, join_group, numbered

        host = self.heartbeat.processes[self.rank].host
        direct = is_direct(self.gather([host, str(numbered(device))]))
        if not dist.is_initialized():
            join_group(self.store, self.rank, self.world, direct)
            self._group_is_direct = direct
        return direct and self._group_is_direct

    def close(self) -> None:
        """End well: rank 0 ends the task loop of the other ranks, and waits for them to leave it."""
        if self.main:
            self.task("end")
        self.store.set(end_key(self.rank), "")
        if self.main:
            with contextlib.suppress(RunError):
                deadline = time.monotonic() + _GOODBYE_S
                for other in range(1, self.world):
                    wait_for_key(self.store, end_key(other), deadline)
        self.heartbeat.stop()
        self.heartbeat.join()

    def fail(self, error: BaseException) -> BaseException:
        """Tell the other ranks of a failure, and return the exception to raise (see `report_failure`)."""
        self.heartbeat.stop()
        if isinstance(error, SystemExit) and not error.code:  # --help
            with contextlib.suppress(Exception):
                self.close()
            return error
        speaks = self.local_rank == 0
        return report_failure(error, self.store, self.heartbeat, rank=self.rank, speaks_for_node=speaks)

    def _next_key(self, kind: str) -> str:
        self._counts[kind] += 1
        return f"{kind}/{self._counts[kind]}"


def _terminate(*_: Any) -> None:
    """Handle SIGTERM, which the launcher sends when a rank has failed."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated


def _rendezvous() -> tuple[Any, int, int, int, int]:
    """Return the launcher's store, and this process' rank, world, local rank and local world."""
    import torch.distributed as dist

    try:
        store, rank, world = next(dist.rendezvous("env://", timeout=timedelta(seconds=START_S)))
    except (ValueError, RuntimeError) as error:
        raise RunError(f"the ranks' store cannot be reached; start the command with torchrun ({error})") from error
    local_rank = int(os.environ.get("LOCAL_RANK", rank))
    local_world = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    return dist.PrefixStore("gdig", store), rank, world, local_rank, local_world
