"""Input files that have to stay as they are while a run reads them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from gdig.errors import CorpusError


class Unchanged:
    """Files and folders as they are now: length, time of the last change and number of each file.

    Args:
        paths: files, and folders with all that they hold. A path that is absent, such as a name, is left out.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = tuple(paths)
        self._statuses = {path: _status(path) for top in self._paths for path in _files_under(top)}

    def check(self) -> None:
        """Look at the files again.

        Raises:
            CorpusError: naming a file that has changed or is gone.
        """
        for path, status in self._statuses.items():
            now = _status(path)
            if now is None:
                raise CorpusError(f"{path}: cannot be read: it was there, and is gone")
            if now != status:
                raise CorpusError(f"{path}: the file changed since it was opened; start again when it is complete")


def _files_under(path: Path) -> Iterable[Path]:
    if path.is_dir():
        for folder, _, names in os.walk(path):
            yield from (Path(folder) / name for name in names if not name.startswith("."))
    elif path.exists():
        yield path


def _status(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino
