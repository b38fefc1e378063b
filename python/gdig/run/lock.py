"""Locks of a run directory: one process at a time, and the ranks beside it."""

from __future__ import annotations

import os
from pathlib import Path

from gdig.errors import RunError


def enter(path: Path) -> int:
    """Say that a rank beside the first works in a run directory, until the handle returned is closed or the process
    ends."""
    return lock(path / ".ranks", exclusive=False)


def lock(path: Path, exclusive: bool = True) -> int:
    """Take the directory's lock, or say that it is taken. The system drops it when the process ends."""
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
