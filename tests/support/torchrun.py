"""gdig started as a user starts it on several processes, through torchrun, and the files that it leaves."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gdig
from tests.support.project_fixtures import Command, SignalAt, fork

PACKAGE = Path(gdig.__file__).parent


def files_of(run_path: Path) -> dict[str, bytes]:
    """All that a run leaves, but for run.json, which holds seconds, and the locks."""
    files = {str(path.relative_to(run_path)): path for path in run_path.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name not in ("run.json", ".lock", ".ranks")}


class _ForkedRank:
    """`python -m gdig ARGS` as torch's agent starts it, but forked from the agent, which has imported all: with the
    environment, the session and the signals of a new process, and with no file of the agent's but its output. Stands
    for subprocess.Popen."""

    def __init__(self, args: Sequence[str], environment: dict[str, str]) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._be(args, environment)
            finally:
                os._exit(1)  # a launcher's own end must not run in its rank

    @staticmethod
    def _be(args: Sequence[str], environment: dict[str, str]) -> None:
        os.setsid()
        os.closerange(3, 4096)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = ["gdig", *args]
        from gdig.cli.main import run

        try:
            run()
        except SystemExit as end:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(end.code if isinstance(end.code, int) else 1)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float) -> int:
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("gdig", timeout)
            time.sleep(0.01)
        assert self.returncode is not None
        return self.returncode


def _launch(argv: list[str], log: str, folder: str, by_exec: tuple[int, ...]) -> None:
    """Be torchrun, with its output in `log`. Each rank's process is written down in `folder`."""
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for number in (1, 2):
        os.dup2(stream, number)
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler

    start = SubprocessHandler._popen

    def popen(self: Any, args: tuple[str, ...], environment: dict[str, str]) -> Any:
        rank = environment["RANK"]
        # python -u -m gdig ARGS
        process = start(self, args, environment) if int(rank) in by_exec else _ForkedRank(args[4:], environment)
        Path(folder, f"pid{rank}").write_text(str(process.pid))
        return process

    SubprocessHandler._popen = popen  # type: ignore[method-assign]
    run.main(argv)


@dataclass
class Launch:
    """`torchrun --nproc-per-node N -m gdig ARGS`: torch's launcher and agent, without the seconds that imports take."""

    process: Any
    log: Path

    @classmethod
    def start(
        cls,
        n: int,
        args: list[str],
        folder: Path,
        nodes: tuple[str, ...] = ("--standalone",),
        by_exec: tuple[int, ...] = (),
    ) -> Launch:
        """Start it. The ranks of `by_exec` are new processes, which import all that they need, as a user's are."""
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "log"
        log.touch()
        argv = [*nodes, "--nproc-per-node", str(n), "-m", "gdig", *args]
        return cls(fork(_launch, argv, str(log), str(folder), by_exec), log)

    def wait(self) -> int:
        self.process.join()
        return self.process.exitcode

    def send(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def wait_for(self, happened: Callable[[], object]) -> None:
        while not happened():
            assert self.process.is_alive(), f"ended before it could be stopped:\n{self.text}"
            time.sleep(0.001)

    def pid(self, rank: int) -> int:
        """The process of a rank."""
        return int((self.log.parent / f"pid{rank}").read_text())

    @property
    def text(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def said(self) -> list[str]:
        """The lines that gdig prints when it ends badly. No frame of a traceback may be one of the package."""
        assert f'File "{PACKAGE}{os.sep}' not in self.text, self.text
        return [line for line in self.text.splitlines() if line.startswith(("gdig: ", "interrupted"))]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start_ranks(
    n: int,
    args: list[str],
    folder: Path,
    *,
    nodes: int = 1,
    environment: dict[str, str] | None = None,
    signal_at: dict[int, SignalAt] | None = None,
) -> list[Command]:
    """Start `gdig ARGS` on n ranks in the environment that torchrun makes.

    Without torchrun, and without the seconds that each of its processes takes to import torch. `signal_at` has the
    moments at which ranks get a signal.
    """
    common = {"WORLD_SIZE": n, "LOCAL_WORLD_SIZE": n // nodes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    ranks = []
    for rank in range(n):
        of_rank = {**common, "RANK": rank, "LOCAL_RANK": rank % (n // nodes)}
        texts = {name: str(value) for name, value in of_rank.items()} | (environment or {})
        moment = (signal_at or {}).get(rank)
        ranks.append(Command.start(args, folder / f"rank{rank}", environment=texts, signal_at=moment))
    return ranks


def finish_on_ranks(n: int, args: list[str], folder: Path, *, nodes: int = 1) -> None:
    """Run `gdig ARGS` on n ranks, and assert that all end well and say nothing.

    For a run that goes on after a failure. torchrun itself starts the runs that fail.
    """
    ranks = start_ranks(n, args, folder, nodes=nodes)
    assert [(rank.wait(), rank.error) for rank in ranks] == [(0, "")] * n
