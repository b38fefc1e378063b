"""Files that are complete or absent."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gdig.errors import DiskError, GdigError


@contextmanager
def replacing(path: Path, error: type[GdigError] = DiskError) -> Iterator[Path]:
    """Write a file as a whole: the block writes the temporary file, and a block without an error renames it to `path`.

    The file is synced before the rename, and its directory after the rename. So a crash leaves the old file or the
    new file. An error in the block removes the temporary file.

    Args:
        path: the file; missing parent folders are made.
        error: what is raised where the file cannot be written.

    Yields:
        The path of the temporary file, in the folder of `path`.

    Raises:
        GdigError: `error`, if the file cannot be written; the message names the file.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)  # a symbolic link there would lead to another file
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except OSError as reason:
        raise error(f"{path}: cannot be written: {reason.strerror or reason}") from reason
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until the disk holds a file, or the names in a directory."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
