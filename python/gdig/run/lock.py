"""Locks of a run directory: one process at a time, and the ranks beside it."""

from __future__ import annotations

import os
from pathlib import Path

from gdig.errors import RunError


def lock(path: Path, exclusive: bool = True) -> int:
    """Take the lock file `path` and return its handle; the system drops the lock when the process ends.

    Args:
        path: the lock file; it is made if it is absent.
        exclusive: False shares the lock with others that share it, such as the ranks beside the first.

    Raises:
        RunError: when another process has the lock.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        return handle
    try:
        fcntl.flock(handle, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise RunError(f"run_path: {path.parent} is in use by another gdig process") from None
    return handle
