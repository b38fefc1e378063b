"""The checksum of a file of any kind, at the speed of the disk."""

from __future__ import annotations

from pathlib import Path

from gdig import _native

_remembered: dict[tuple[str, int, int, int, int], str] = {}
"""Checksums by path, length, times of the last change and number of the file. A forked process has them too."""
_MOST = 100_000


def content_checksum(path: Path) -> str:
    """Return XXH3-64 over the content of a file: 16 hexadecimal digits.

    A file is read when a process first asks for it, and not again while it stays as it is.

    Raises:
        StoreError: if the file cannot be read.
    """
    try:
        status = path.stat()
    except OSError:
        return _native.content_checksum(path)  # the error names the file
    key = (str(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    if key not in _remembered:
        if len(_remembered) >= _MOST:
            _remembered.clear()
        _remembered[key] = _native.content_checksum(path)
    return _remembered[key]
