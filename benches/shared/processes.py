"""A Python module as a process of its own: its seconds, its processor time, and the most memory that it had."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024
"""The unit of ru_maxrss."""


@dataclass(frozen=True)
class Measured:
    """What a command cost. seconds: wall time. cpu_seconds: of the process and of those it waited for. peak_bytes: the
    largest resident set of the process. text: what it printed.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    text: str


def measure(module: str, arguments: Sequence[str], log: Path, environment: dict[str, str]) -> Measured:
    """Run a module that this process could import, and measure it.

    Args:
        module: its name.
        arguments: on its command line.
        log: the file that its output goes to.
        environment: variables beside those of this process.

    Raises:
        RuntimeError: when the command fails; the message holds the end of its output.
    """
    command = [sys.executable, "-m", module, *arguments]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    begun = time.perf_counter()
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=variables)
        _, status, usage = os.wait4(process.pid, 0)  # only wait4 says what this one process took
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - begun
    text = log.read_text(encoding="utf-8", errors="replace")
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}:\n{text[-4000:]}")
    return Measured(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * _MAXRSS_BYTES, text)
