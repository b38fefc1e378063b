"""Time and memory that hostile input may take."""

from __future__ import annotations

import faulthandler
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def within(seconds: float, more_bytes: int = 200 << 20) -> Iterator[None]:
    """Fail where the block takes more processor time, or more memory than the process has had before.

    A block that hangs ends the process, because nothing else ends a call that waits in the system.
    """

    def peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    before, memory = time.process_time(), peak()
    faulthandler.dump_traceback_later(30 + 20 * seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
    taken, more = time.process_time() - before, peak() - memory
    assert taken < seconds and more < more_bytes, f"{taken:.2f} s and {more >> 20} MiB"
