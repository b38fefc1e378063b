"""A cache of folders that are made from input files. Several processes may use the cache at once.

A folder of the cache is complete or absent. `sums.json` holds the length and the checksum of each of its files. A
process compares them when it first opens the folder, and a folder with a wrong file is made again.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from gdig.data.fingerprint import fingerprint_file
from gdig.errors import ChangedFileError, CorpusError, StoreError
from gdig.store.atomic import sync
from gdig.store.checksum import content_checksum

_ABANDONED_SECONDS = 24 * 3600
_SUMS = "sums.json"
_UNWRITABLE = "the cache of input files cannot be written: {}; make room, or set XDG_CACHE_HOME to another folder"


def default_cache() -> Path:
    """Return the folder of the cache: `gdig` in XDG_CACHE_HOME, or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gdig"


def cached_folder(cache: Path, kind: str, source: Path, build: Callable[[Path], None]) -> Path:
    """Return the folder of a source's content, as :func:`keyed_folder` does.

    Args:
        cache: the folder of the cache.
        kind: what the folder holds, with its version and what it depends on besides the content of the source.
        source: the input file that it is made from.
        build: fills the folder.

    Raises:
        CorpusError: if the cache cannot be written, or the source changes while the folder is built. An error of
            `build` passes through. No folder is left then.
    """
    content = fingerprint_file(source)["hash"]

    def build_unchanged(folder: Path) -> None:
        build(folder)
        if fingerprint_file(source)["hash"] != content:
            raise ChangedFileError(
                f"{source}: the file changed while it was being read; start again when it is complete"
            )

    return keyed_folder(cache, f"{kind}-{content}", build_unchanged)


def keyed_folder(cache: Path, key: str, build: Callable[[Path], None]) -> Path:
    """Return the folder `cache/key`. If it is absent or damaged, `build` fills an empty folder with its files.

    The folder is built under a temporary name, synced and renamed, so a kill or a full disk leaves no broken folder.
    If two processes build the same key, both use the folder of the process that finishes first.

    Raises:
        CorpusError: if the cache cannot be written. An error of `build` passes through; no folder is left then.
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
        sums = {file.name: [file.stat().st_size, content_checksum(file)] for file in sorted(folder.iterdir())}
        (folder / _SUMS).write_text(json.dumps(sums))
        for path in (*folder.iterdir(), folder):
            sync(path)
        if final.exists() and not _is_whole(final):
            shutil.rmtree(final, ignore_errors=True)  # another program has damaged it
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


def _is_whole(folder: Path) -> bool:
    try:
        if not (folder / _SUMS).is_file():  # opening a pipe would wait for its writer
            return False
        sums = json.loads((folder / _SUMS).read_text())
        names = {file.name for file in folder.iterdir()} - {_SUMS}
        return names == set(sums) and all(
            [(folder / name).stat().st_size, content_checksum(folder / name)] == expected
            for name, expected in sums.items()
        )
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, StoreError):
        return False


def _remove_abandoned(cache: Path, key: str) -> None:
    """Remove the unfinished folders that killed processes left of this key. Nobody has written to them for a day."""
    for folder in cache.glob(f".{key}.*"):
        with contextlib.suppress(OSError):
            newest = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
            if time.time() - newest > _ABANDONED_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
