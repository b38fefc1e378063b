"""A cache of folders derived from input files: complete or absent, safe for several processes at once."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from gdig.errors import CorpusError

_ABANDONED_SECONDS = 24 * 3600
_UNWRITABLE = "the cache of input files cannot be written: {}; make room, or set XDG_CACHE_HOME to another folder"


def default_cache() -> Path:
    """Return the folder for derived files: `gdig` in XDG_CACHE_HOME, or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gdig"


def cached_folder(cache: Path, key: str, build: Callable[[Path], None]) -> Path:
    """Return the folder `cache/key`, made by `build` (which fills an empty folder with files) if it is not there yet.

    The folder is built under a temporary name, synced and renamed, so a kill or a full disk leaves no broken one. Of
    two processes that build the same key, the first to finish wins and the other takes its result.

    Raises:
        CorpusError: if the cache cannot be written. What `build` raises passes through, and leaves nothing behind.
    """
    final = cache / key
    if _is_whole(final):
        return final
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(cache, key)
        folder = Path(tempfile.mkdtemp(prefix=f".{key}.", dir=cache))
    except OSError as error:
        raise CorpusError(f"{cache}: {_UNWRITABLE.format(error)}") from None
    try:
        build(folder)
        sizes = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
        (folder / "sizes.json").write_text(json.dumps(sizes))
        for path in (*folder.iterdir(), folder):
            sync(path)
        if final.exists() and not _is_whole(final):
            shutil.rmtree(final, ignore_errors=True)  # damaged from outside
        try:
            folder.rename(final)
        except OSError:
            if not _is_whole(final):
                raise
        sync(cache)
    except OSError as error:
        raise CorpusError(f"{cache}: {_UNWRITABLE.format(error)}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return final


def sync(path: Path) -> None:
    """Bring a file's content, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_whole(folder: Path) -> bool:
    try:
        sizes = json.loads((folder / "sizes.json").read_text())
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def _remove_abandoned(cache: Path, key: str) -> None:
    """Remove what killed processes left of this key: unfinished folders that nobody has written to for a day."""
    for folder in cache.glob(f".{key}.*"):
        with contextlib.suppress(OSError):
            newest = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
            if time.time() - newest > _ABANDONED_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
