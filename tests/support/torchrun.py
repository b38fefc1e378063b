"""gdig started as a user starts it on several processes, through torchrun, and the files that it leaves."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gdig
from tests.support.project_fixtures import Command, SignalAt

PACKAGE = Path(gdig.__file__).parent


def files_of(run_path: Path) -> dict[str, bytes]:
    """All that a run leaves, but for run.json, which holds seconds, and the locks."""
    files = {str(path.relative_to(run_path)): path for path in run_path.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name not in ("run.json", ".lock", ".ranks")}


@dataclass
class Launch:
    """`torchrun --nproc-per-node N -m gdig ARGS`."""

    process: subprocess.Popen
    log: Path

    @classmethod
    def start(cls, n: int, args: list[str], folder: Path, nodes: tuple[str, ...] = ("--standalone",)) -> Launch:
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "log"
        launcher = [sys.executable, "-m", "torch.distributed.run", *nodes, "--nproc-per-node", str(n)]
        with log.open("w") as stream:
            process = subprocess.Popen(
                [*launcher, "-m", "gdig", *args], stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )  # fmt: skip
        return cls(process, log)

    def wait(self) -> int:
        return self.process.wait()

    def wait_for(self, happened: Callable[[], object]) -> None:
        while not happened():
            assert self.process.poll() is None, f"ended before it could be stopped:\n{self.text}"
            time.sleep(0.001)

    def pid(self, rank: int) -> int:
        """The process of a rank."""
        for child in Path(f"/proc/{self.process.pid}/task").glob("*/children"):
            for pid in child.read_text().split():
                if f"RANK={rank}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    return int(pid)
        raise AssertionError(f"no rank {rank}:\n{self.text}")

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
