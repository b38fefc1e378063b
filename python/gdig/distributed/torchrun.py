"""The ranks that torchrun started: keys in its store, heartbeats, and what is said when one of them fails."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gdig.distributed.ranks import Ranks
from gdig.errors import ConfigError, GdigError, OtherRankError, RunError
from gdig.progress import Bar

_BEAT_S = 2.0
"""How often a rank says that it is there, and looks whether the others are."""


_SILENCE_S = 120.0
"""After so long without a word a rank counts as lost."""


_START_S = 600.0
"""So long the ranks may take to find one another."""


_PAUSE_S = 0.25
"""Longest sleep between two questions to the store."""


def several() -> bool:
    """Whether a launcher has started this process as one of several (torchrun's environment says so)."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the ranks that the launcher started, or be alone. When the block fails here, all ranks end.

    Raises:
        OtherRankError: in place of what came of it here, when another rank failed first and has said why.
        RunError: when a rank is lost; it names the rank and what it did.
    """
    if not several():
        yield Ranks()
        return
    try:
        ranks = Several(*_connect())
    except KeyboardInterrupt:
        if os.environ["RANK"] != "0":  # one of them says so
            raise OtherRankError(130) from None
        raise
    signal.signal(signal.SIGTERM, ranks.terminated)
    try:
        yield ranks
    except BaseException as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the launcher ends the ranks when one has ended badly
        told = ranks.failed(error)
        if told is error:
            raise
        raise told from error
    ranks.close()


class Terminated(BaseException):
    """The process was asked to end."""


class Several(Ranks):
    """This process among `world` of them.

    Args:
        store: a torch.distributed.Store that all ranks share; it must outlive each of them but the last.
        rank: number of this process, 0 to world - 1.
        world: how many there are.
        local_rank: number of this process on its machine.
        local_world: how many its machine runs.
        wake: called in a thread of its own when the run has failed elsewhere while this rank may be at work.
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
        self.direct = False  # whether tensors go from device to device; gdig.distributed.tensors finds out
        self.host = socket.gethostname()
        self._wake = wake
        self._counts = {"task": 0, "gather": 0, "claim": 0, "bar": 0}
        self._heard: dict[int, tuple[bytes, float, float]] = {}  # beat, when looked at, silent s
        self._who: dict[int, dict[str, Any]] = {}
        self._ended = threading.Event()
        self._beat(0)
        self.doing("starting")
        store.set(f"who/{rank}", json.dumps({"host": self.host, "pid": os.getpid()}))
        limit = time.monotonic() + _START_S
        for other in range(world):
            self._wait(f"who/{other}", limit, f"rank {other} of {world} did not start within {_START_S:.0f} s")
            self._who[other] = json.loads(store.get(f"who/{other}"))
        self._thread = threading.Thread(target=self._keep_watch, name="gdig ranks", daemon=True)
        self._thread.start()

    # What Ranks promises.

    def task(self, name: str, **arguments: Any) -> None:
        """Set the next task's key."""
        self.doing(name)
        self.store.set(self._next("task"), json.dumps([name, arguments]))

    def tasks(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Wait for one key after the other."""
        while True:
            key = self._next("task")
            self.doing("waiting for rank 0")
            self._wait(key)
            name, arguments = json.loads(self.store.get(key))
            if name == "end":
                return
            self.doing(name)
            yield name, arguments

    def doing(self, what: str) -> None:
        """Set this rank's key, which others read when it is lost."""
        self.store.set(f"doing/{self.rank}", what)

    def gather(self, value: Any, bar: Bar | None = None) -> list[Any]:
        """Set this rank's key, and wait for all."""
        if isinstance(bar, _SharedBar):
            bar.pass_on()
        key = self._next("gather")
        self.store.set(f"{key}/{self.rank}", json.dumps(value))
        values = []
        for other in range(self.world):
            self._wait(f"{key}/{other}", poll=bar.pass_on if isinstance(bar, _SharedBar) else None)
            values.append(json.loads(self.store.get(f"{key}/{other}")))
        if isinstance(bar, _SharedBar):
            bar.pass_on()
        return values

    def claim(self, n: int) -> Iterator[int]:
        """Count up a key of the store, which no two ranks do at once."""
        key = self._next("claim")
        while (number := self.store.add(key, 1) - 1) < n:
            yield number

    def shared(self, bar: Bar) -> Bar:
        """A bar that counts in the store."""
        return _SharedBar(self, self._next("bar"), bar)

    def first(self, text: str) -> bool:
        """Count up the text's key."""
        return self.store.add(f"first/{text}", 1) == 1

    def device(self, asked: str) -> str:
        """With "auto" or "cuda": the GPU whose number is that of the rank on its machine.

        Raises:
            ConfigError: when the machine has fewer.
        """
        import torch

        if asked not in ("auto", "cuda") or not torch.cuda.is_available():
            return asked
        if self.local_world > torch.cuda.device_count():
            raise ConfigError(
                f"device: {self.local_world} processes on {self.host}, but torch sees "
                f"{torch.cuda.device_count()} CUDA devices there: start one process a device"
            )
        return f"cuda:{self.local_rank}"

    def threads(self, asked: int | None) -> int | None:
        """Without a number: this rank's share of its machine's processors."""
        return asked if asked is not None else max(1, (os.cpu_count() or 1) // self.local_world)

    # How it ends.

    def close(self) -> None:
        """End well: rank 0 lets the others go, and waits until they have heard it."""
        if self.main:
            self.task("end")
        self.store.set(f"bye/{self.rank}", "")
        if self.main:
            with contextlib.suppress(RunError):
                limit = time.monotonic() + 30
                for other in range(1, self.world):
                    self._wait(f"bye/{other}", limit, "")
        self._ended.set()
        self._thread.join()

    def terminated(self, *_: Any) -> None:
        """Handle SIGTERM, which the launcher sends when a rank has ended badly."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Terminated

    def failed(self, error: BaseException) -> BaseException:
        """Tell the other ranks that this one has failed, and return what is to be raised: the error, with the number of
        this rank; or OtherRankError when another rank has told of a failure already."""
        self._ended.set()
        status = {KeyboardInterrupt: 130, Terminated: 143, SystemExit: 2}.get(type(error), 2)
        if isinstance(error, SystemExit) and not error.code:  # --help
            with contextlib.suppress(Exception):
                self.close()
            return error
        if isinstance(error, OtherRankError):
            return error
        told = error
        try:
            if not isinstance(error, (GdigError, KeyboardInterrupt, SystemExit)):
                # A lost rank shows as a broken connection, or in that the launcher ends the others.
                lost = None if self.store.check(["failed"]) else self._lost(0 if isinstance(error, Terminated) else 5)
                told, status = (lost, 2) if lost is not None else (error, status)
            record = json.dumps({"rank": self.rank, "status": status})
            winner = json.loads(self.store.compare_set("failed", "", record))
            if winner["rank"] != self.rank:
                return OtherRankError(winner["status"])
        except Exception:  # the store is gone, with the launcher of rank 0 that kept it: one rank a node speaks
            if self.local_rank or (self.local_world == self.world and not self.main):
                return OtherRankError(status)
            if not self.main and not isinstance(told, (GdigError, KeyboardInterrupt)):
                host = self._who.get(0, {}).get("host", "its node")
                return LostRankError(
                    f"rank 0 is lost: the launcher on {host}, which keeps the ranks together, cannot be reached any "
                    "more; the same command goes on from here"
                )
        if isinstance(told, Terminated):
            return OtherRankError(status)
        if isinstance(told, GdigError) and not (self.main or isinstance(told, LostRankError)):
            told.args = (f"rank {self.rank}: {told}",)
        return told

    def _lost(self, patience: float) -> LostRankError | None:
        """The error that names a rank that is gone, if there is one, or becomes known to be within `patience` s."""
        limit = time.monotonic() + patience
        while True:
            for other, who in self._who.items():
                if other == self.rank or self.store.check([f"bye/{other}"]):
                    continue
                gone = who["host"] == self.host and not _is_alive(who["pid"])
                if gone or self._silent(other):
                    why = "ended without a word" if gone else f"has not been heard of for {_SILENCE_S:.0f} s"
                    doing = self.store.get(f"doing/{other}").decode()
                    return LostRankError(
                        f"rank {other} is lost: process {who['pid']} on {who['host']} {why} (killed?) while at: "
                        f"{doing}; the same command goes on from here"
                    )
            if time.monotonic() >= limit or self.store.check(["failed"]):
                return None
            time.sleep(_PAUSE_S)

    def _silent(self, other: int) -> bool:
        """Whether another rank has not beaten for long. Of the time between two looks only so much counts as there is
        between two beats: if this process stood still (with the others, perhaps), that says nothing of them."""
        beat, now = self.store.get(f"beat/{other}"), time.monotonic()
        before, looked, silent = self._heard.get(other, (b"", now, 0.0))
        silent = 0.0 if beat != before else silent + min(now - looked, 2 * _BEAT_S)
        self._heard[other] = (beat, now, silent)
        return silent > _SILENCE_S

    # How it waits.

    def _next(self, kind: str) -> str:
        self._counts[kind] += 1
        return f"{kind}/{self._counts[kind]}"

    def _wait(
        self, key: str, limit: float | None = None, late: str = "", poll: Callable[[], object] | None = None
    ) -> None:
        """Return when `key` is there.

        Raises:
            OtherRankError: when a rank has failed. RunError: after `limit`, with the text `late`.
        """
        pause = 0.001
        while not self.store.check([key]):
            if self.store.check(["failed"]):
                raise OtherRankError(json.loads(self.store.get("failed"))["status"])
            if poll is not None:
                poll()
            if limit is not None and time.monotonic() > limit:
                raise RunError(late)
            time.sleep(pause)
            pause = min(_PAUSE_S, 1.5 * pause)

    def _beat(self, number: int) -> None:
        self.store.set(f"beat/{self.rank}", str(number))

    def _keep_watch(self) -> None:
        """Beat; and when the run has failed elsewhere, or a rank is lost, wake this one from its work."""
        number = 0
        while not self._ended.wait(_BEAT_S):
            number += 1
            try:
                self._beat(number)
                trouble = self.store.check(["failed"]) or (self._lost(0) is not None)
            except Exception:  # the store is gone, and with it whoever keeps it
                trouble = True
            if trouble and not self._ended.is_set():
                self._wake()
                return


class LostRankError(RunError):
    """A rank has ended without saying why."""


class _SharedBar:
    """Passes on what a rank advances: to the store, or on rank 0 from the store to the bar that is shown."""

    def __init__(self, ranks: Several, key: str, bar: Bar) -> None:
        self._ranks, self._key, self._bar = ranks, key, bar
        self._own, self._seen, self._last = 0, 0, time.monotonic()

    def advance(self, k: int, note: str = "") -> None:
        if self._ranks.main:
            self._bar.advance(k, note)
        self._own += 0 if self._ranks.main else k
        if time.monotonic() - self._last > 0.5:
            self.pass_on()

    def pass_on(self) -> None:
        """Give or take what has come together."""
        self._last = time.monotonic()
        total, self._own = self._ranks.store.add(self._key, self._own), 0
        if self._ranks.main and total > self._seen:
            self._bar.advance(total - self._seen)
            self._seen = total


def _connect() -> tuple[Any, int, int, int, int]:
    """Return the store of the launcher, and who this process is: rank, world, local rank, local world."""
    from datetime import timedelta

    import torch.distributed as dist

    try:
        store, rank, world = next(dist.rendezvous("env://", timeout=timedelta(seconds=_START_S)))
    except (ValueError, RuntimeError) as error:
        raise RunError(f"the ranks' store cannot be reached; was this started by torchrun? ({error})") from error
    local_rank, local_world = (
        int(os.environ.get(f"LOCAL_{name}", default))
        for name, default in (("RANK", str(rank)), ("WORLD_SIZE", str(world)))
    )
    return dist.PrefixStore("gdig", store), rank, world, local_rank, local_world


def _is_alive(pid: int) -> bool:
    """Whether a process of this machine runs: not gone, and not a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return True
