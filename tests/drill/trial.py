"""One trial: work in a forked process of its own, watched, so that a hang or a crash is a finding and ends nothing."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    kind: "answer" with its value, "refused" with gdig's message, "traceback" with its text, "hang", or "killed" with
    the number of the signal.
    """

    kind: str
    value: Any = None


@dataclass(frozen=True)
class Strike:
    """The file operation at which a disk fails: the n-th below a folder. error: of errno; 0 kills the process. stays:
    whether all later operations fail too. n = 0 counts the operations."""

    folder: Path
    n: int
    error: int = 0
    stays: bool = False


def run(work: Callable[[], Any], strike: Strike | None = None, timeout_s: float = TIMEOUT_S) -> Outcome:
    """Do `work` in a forked process, whose files are struck."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.setsid()
        _child(work, strike, writer)
    os.close(writer)
    data, end = b"", time.monotonic() + timeout_s
    hang = False
    while True:
        ready, _, _ = select.select([reader], [], [], max(0.0, end - time.monotonic()))
        if not ready:
            hang = True
            break
        block = os.read(reader, 1 << 16)
        if not block:
            break
        data += block
    os.close(reader)
    if hang:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if hang:
        return Outcome("hang")
    if os.WIFSIGNALED(status):
        return Outcome("killed", os.WTERMSIG(status))
    return pickle.loads(data) if data else Outcome("traceback", f"exit status {os.WEXITSTATUS(status)}")


def _child(work: Callable[[], Any], strike: Strike | None, writer: int) -> None:
    from gdig.errors import GdigError

    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    if strike is not None:
        arm(strike)
    try:
        outcome = Outcome("answer", work())
    except GdigError as error:
        outcome = Outcome("refused", str(error))
    except OSError as error:  # the command line prints it in one line, as it does GdigError
        outcome = Outcome("refused", str(error))
    except BaseException:
        outcome = Outcome("traceback", traceback.format_exc())
    if strike is not None and strike.n == 0:
        outcome = Outcome("counted", ctypes.CDLL(None).drill_counted())
    with os.fdopen(writer, "wb") as file:
        pickle.dump(outcome, file)
    os._exit(0)


def arm(strike: Strike) -> None:
    """Let the operations of this process be counted from now on."""
    ctypes.CDLL(None).drill_arm(
        os.fsencode(strike.folder), ctypes.c_long(strike.n), ctypes.c_int(strike.error), ctypes.c_int(strike.stays)
    )


def is_preloaded() -> bool:
    """Whether the shim is loaded in this process."""
    return hasattr(ctypes.CDLL(None), "drill_arm")


def preload(folder: Path) -> None:
    """Build the shim, and start this program again with it."""
    import subprocess

    shim = folder / "shim.so"
    source = Path(__file__).with_name("shim.c")
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", shim, source, "-ldl"], check=True)
    environment = {
        **os.environ,
        "LD_PRELOAD": str(shim),
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
    arguments = [sys.executable, "-m", "tests.drill", *sys.argv[1:]]
    os.execve(sys.executable, arguments, environment)
