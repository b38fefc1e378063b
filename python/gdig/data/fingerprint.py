"""Fingerprints of input files. They show a run that an input has changed since the run began."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from stat import S_ISREG
from typing import Any, BinaryIO

from gdig.errors import CorpusError, MissingFileError

WHOLE_UP_TO = 256 << 20
"""A file of up to so many bytes is hashed whole. Of a larger file, blocks are hashed."""
_BLOCKS, _BLOCK = 1024, 64 << 10
_SETTLED_SECONDS = 2.0

# Files that training leaves beside a model, and caches of libraries. None of them changes what the model computes.
_IGNORED_FILES = re.compile(
    r"\..*|optimizer.*|scheduler\..*|scaler\.pt|rng_state.*|trainer_state\.json|training_args\.(bin|json)"
    r"|events\.out\.tfevents.*|cache-.*\.arrow|tmp.*\.arrow|.*\.lock|.*\.tmp"
)
_IGNORED_FOLDERS = re.compile(r"\..*|__pycache__|checkpoint-\d+|global_step\d+|runs|wandb")

_remembered: dict[tuple[str, int, int, int, int], str] = {}


def fingerprint_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return `{"size": bytes, "hash": hex}` of a file.

    The hash is blake2b-160 of the whole content for files of up to 256 MiB. A larger file is hashed by its size, its
    modification time and 1,024 evenly spaced blocks of 64 KiB. The first and the last block are among them.

    Raises:
        CorpusError: if the file cannot be read.
    """
    path = Path(path)
    try:
        if not S_ISREG(path.stat().st_mode):  # opening a pipe would wait for its writer
            raise CorpusError(f"{path}: expected a file, got something else, such as a pipe; write it to a file first")
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            key = (str(path.absolute()), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
            if key not in _remembered:
                digest = _hash(file, status.st_size, status.st_mtime_ns)
                # Two changes within a tick of the clock give the same times: the hash of a new file is not remembered.
                if time.time() - max(status.st_mtime, status.st_ctime) < _SETTLED_SECONDS:
                    return {"size": status.st_size, "hash": digest}
                _remembered[key] = digest
    except OSError as error:
        raise MissingFileError(f"{path}: cannot be read: {error.strerror or error}") from None
    return {"size": status.st_size, "hash": _remembered[key]}


def hash_content(path: Path) -> str:
    """Return blake2b-160 of the whole content of a file: 40 hexadecimal digits."""
    digest = blake2b(digest_size=20)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fingerprint_paths(paths: Sequence[str | os.PathLike[str]]) -> dict[str, dict[str, Any]]:
    """Fingerprint files and folders (recursively, without optimizer states, logs, hidden files and caches).

    Returns:
        Fingerprints by name, in the order of `paths`, sorted within a folder. Names are relative to the folder that the
        paths have in common, so the names do not change when the whole tree is moved.

    Raises:
        CorpusError: if a path is missing or cannot be read.
    """
    absolute = [Path(os.path.abspath(path)) for path in paths]  # noqa: PTH100 (resolve() follows links)
    if not absolute:
        return {}
    parents = [path if path.is_dir() else path.parent for path in absolute]
    common = Path(os.path.commonpath(parents))
    return {
        file.relative_to(common).as_posix(): fingerprint_file(file) for path in absolute for file in files_under(path)
    }


def files_under(path: Path) -> Iterator[Path]:
    """Yield the files of a folder that count, sorted within each folder; or the path itself if it is no folder."""
    if not path.is_dir():
        yield path
        return
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if not _IGNORED_FOLDERS.fullmatch(name))
        yield from (Path(folder) / name for name in sorted(files) if not _IGNORED_FILES.fullmatch(name))


def _hash(file: BinaryIO, size: int, mtime_ns: int) -> str:
    digest = blake2b(digest_size=20)
    if size <= WHOLE_UP_TO:
        # Not until the end: some files of the system (in /proc) have a size of 0, and never end or make readers wait.
        remaining = size
        while remaining > 0 and (block := file.read(min(remaining, 1 << 20))):
            digest.update(block)
            remaining -= len(block)
        return digest.hexdigest()
    digest.update(f"{size} {mtime_ns}".encode())
    for block_number in range(_BLOCKS):
        file.seek((size - _BLOCK) * block_number // (_BLOCKS - 1))
        digest.update(file.read(_BLOCK))
    return digest.hexdigest()
