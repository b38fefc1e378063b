"""Locks of a run directory: one process at a time, and the ranks beside it."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from gdig.errors import BusyRunError, RunError

_held: set[int] = set()
"""Handles of the locks that this process has."""


def _drop_in_child() -> None:
    """Let go of the locks that a forked process has from its parent: they are the parent's, and end with it."""
    for handle in _held:
        with contextlib.suppress(OSError):
            os.close(handle)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop_in_child)


_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


class ReadOnlyError(RunError):
    """The run directory cannot be written."""


def lock(path: Path, exclusive: bool = True) -> int:
    """Take the lock file `path` and return its handle; the system drops the lock when the process ends.

    Args:
        path: the lock file; it is made if it is absent.
        exclusive: False shares the lock with others that share it, such as the ranks beside the first.

    Raises:
        ReadOnlyError: when the directory cannot be written.
        RunError: when another process has the lock, or the file is a symbolic link.
    """
    try:
        # O_NOFOLLOW: a link in the place of the lock would make a file somewhere else.
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
    except OSError as error:
        if error.errno in _READ_ONLY:
            raise ReadOnlyError(f"run_path: {path.parent} cannot be written: {error.strerror}") from None
        if error.errno == errno.ELOOP:
            raise RunError(f"{path}: is a symbolic link, expected the lock of the run; remove it") from None
        raise RunError(f"{path}: cannot be opened: {error.strerror}") from None
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        return handle
    try:
        fcntl.flock(handle, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise _busy(path.parent) from None
    _held.add(handle)
    return handle


def lock_to_read(path: Path) -> int | None:
    """Share the lock file of a directory that cannot be written; None if there is none.

    Raises:
        RunError: when another process, which can write, has the lock.
    """
    try:
        import fcntl

        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # a pipe would wait for its writer
    except (ImportError, OSError):
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise _busy(path.parent) from None
    except OSError:  # a file system without locks
        pass
    _held.add(handle)
    return handle


def _busy(path: Path) -> BusyRunError:
    return BusyRunError(
        f"run_path: {path} is in use by another gdig process; wait until it has ended, or give another directory"
    )


def unlock(handle: int) -> None:
    """Let go of a lock."""
    _held.discard(handle)
    os.close(handle)
