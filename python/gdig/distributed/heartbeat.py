"""A rank shows that it is alive, and finds ranks that are lost.

A lost rank of this machine shows by its process, a lost rank of another machine by its silence.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gdig.distributed.keys import FAILURE, PAUSE_S, activity_key, beat_key, end_key, process_key, wait_for_key
from gdig.errors import RunError

START_S = 600.0
"""The time that the ranks have to find one another."""
_BEAT_S = 2.0
"""A rank beats, and looks at the other ranks, once in this time."""
_SILENCE_S = 120.0
"""A rank without a beat for so long is lost."""


class LostRankError(RunError):
    """A rank has ended without a message."""


@dataclass(frozen=True)
class Process:
    """The process of a rank."""

    host: str
    pid: int

    @classmethod
    def current(cls) -> Process:
        """This process."""
        return cls(socket.gethostname(), os.getpid())

    def is_alive(self) -> bool:
        """Whether the process runs; only for a process of this machine. A zombie does not run."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return True


@dataclass(frozen=True)
class _Pulse:
    """A rank's last beat, when this rank looked at it, and for how long the beat has been the same."""

    beat: bytes
    looked: float
    silent_s: float


class Heartbeat:
    """The beats of one rank, and its look at the other ranks. All ranks make theirs at once, and wait for one another.

    Args:
        store: a torch.distributed.Store that all ranks share.
        rank: number of this process, 0 to world - 1.
        world: number of processes.

    Raises:
        RunError: when a rank does not start in time.
    """

    def __init__(self, store: Any, rank: int, world: int) -> None:
        self._store, self._rank = store, rank
        self._pulses: dict[int, _Pulse] = {}
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._beat(0)
        store.set(process_key(rank), json.dumps(asdict(Process.current())))
        deadline = time.monotonic() + START_S
        self.processes: dict[int, Process] = {}
        for other in range(world):
            late = f"rank {other} of {world}: expected to start within {START_S:.0f} s, but did not; see its own output"
            wait_for_key(store, process_key(other), deadline, late)
            self.processes[other] = Process(**json.loads(store.get(process_key(other))))

    def start(self, wake: Callable[[], object]) -> None:
        """Beat in a thread. The thread calls `wake` and ends when another rank has failed or is lost."""
        self._thread = threading.Thread(target=self._watch, args=(wake,), name="gdig heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Beat no more, and wake nobody."""
        self._ended.set()

    def join(self) -> None:
        """Wait for the thread to end, after `stop`."""
        if self._thread is not None:
            self._thread.join()

    def lost_rank(self, patience_s: float) -> LostRankError | None:
        """The error that names a lost rank; None when there is none within `patience_s`, or when a rank has failed."""
        deadline = time.monotonic() + patience_s
        while True:
            for rank, process in self.processes.items():
                if rank != self._rank and not self._store.check([end_key(rank)]) and (reason := self._loss(rank)):
                    activity = self._store.get(activity_key(rank)).decode()
                    return LostRankError(
                        f"rank {rank} is lost: process {process.pid} on {process.host} {reason} (killed?); its "
                        f"last activity: {activity}; the same command continues from here"
                    )
            if time.monotonic() >= deadline or self._store.check([FAILURE]):
                return None
            time.sleep(PAUSE_S)

    def _loss(self, rank: int) -> str | None:
        """What shows that a rank is lost; None when nothing does."""
        process = self.processes[rank]
        if process.host == self.processes[self._rank].host and not process.is_alive():
            return "ended without a message"
        return f"has been silent for {_SILENCE_S:.0f} s" if self._is_silent(rank) else None

    def _is_silent(self, rank: int) -> bool:
        """Whether a rank has not beaten for long.

        Of the time between two looks, at most two beats count. A process that stood still for a time, perhaps with the
        other ranks, learns nothing of them from that time.
        """
        beat, now = self._store.get(beat_key(rank)), time.monotonic()
        before = self._pulses.get(rank, _Pulse(b"", now, 0.0))
        silent_s = before.silent_s + min(now - before.looked, 2 * _BEAT_S) if beat == before.beat else 0.0
        self._pulses[rank] = _Pulse(beat, now, silent_s)
        return silent_s > _SILENCE_S

    def _beat(self, number: int) -> None:
        self._store.set(beat_key(self._rank), str(number))

    def _watch(self, wake: Callable[[], object]) -> None:
        number = 0
        while not self._ended.wait(_BEAT_S):
            number += 1
            try:
                self._beat(number)
                failed = self._store.check([FAILURE]) or self.lost_rank(0) is not None
            except Exception:  # the store is gone, and the launcher that kept it
                failed = True
            if failed and not self._ended.is_set():
                wake()
                return
