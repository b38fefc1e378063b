"""Ctrl-C and SIGTERM end a command within two seconds, whatever it does at that moment.

Python raises its exception only between two steps of the interpreter, and one operation of torch can take minutes. So a
thread waits for the signal too. It ends the process when the main thread has not ended in time. Every file is complete
or absent, so nothing is damaged, and a later start goes on from what is there.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TextIO

from gdig.distributed.failure import Terminated
from gdig.distributed.torchrun import is_launched

_GRACE_S = 1.0
"""The time that the main thread has to keep what it has done and to end. The rest of the two seconds is for the end of
a process with gigabytes of memory, beside other work."""
_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
_saying = threading.Lock()
_said = False


def exit_status(number: int) -> int:
    """Return the exit status of a command that a signal has ended."""
    return 128 + number


def say_stopped(number: int, stream: TextIO) -> None:
    """Print how to go on after a signal. Of several calls, the first prints."""
    global _said
    with _saying:
        if not _said:
            print(f"{_WORDS[signal.Signals(number)]}; the same command goes on from here", file=stream, flush=True)
        _said = True


@contextmanager
def terminates() -> Iterator[None]:
    """Raise `Terminated` in the block at SIGTERM. A launcher's ranks have a handler of their own."""
    global _said
    _said = False
    if is_launched() or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def end_in_time() -> None:
    """From now on, end this process when a signal has not ended it after the grace. Only for a process of its own."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader,), name="gdig stop", daemon=True).start()


def _watch(reader: int) -> None:
    # The launcher ends the other ranks by SIGTERM when one has failed. They need time to say why.
    numbers = {signal.SIGINT} if is_launched() else {signal.SIGINT, signal.SIGTERM}
    while (number := os.read(reader, 1)[0]) not in numbers:
        pass
    threading.Event().wait(_GRACE_S)
    if os.environ.get("RANK", "0") == "0" or not is_launched():
        with contextlib.suppress(OSError, ValueError):
            say_stopped(number, sys.stderr)
    os._exit(exit_status(number))
