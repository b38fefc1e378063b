"""Input files that have to stay as they are while a run reads them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from gdig.data.fingerprint import files_under
from gdig.errors import ChangedFileError


class Unchanged:
    """Files and folders as they are now: length, time of the last change and number of each file.

    Args:
        paths: files, and folders with the files that a fingerprint goes by. A path that is absent, such as a name, is
            left out.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._statuses = {path: _status(path) for top in paths if top.exists() for path in files_under(top)}

    def check(self) -> None:
        """Look at the files again.

        Raises:
            CorpusError: naming a file that has changed or is gone.
        """
        for path, status in self._statuses.items():
            now = _status(path)
            if now is None:
                raise ChangedFileError(f"{path}: cannot be read: it was there, and is gone")
            if now != status:
                raise ChangedFileError(f"{path}: the file changed since it was opened; start again when it is complete")


def _status(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino
