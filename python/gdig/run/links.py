"""Symbolic links in a run directory: gdig neither writes nor deletes through one.

A run directory may come from somebody else. A link in it could lead to any place on this machine.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from gdig.errors import RunError


def remove_folder(folder: Path) -> None:
    """Remove a folder with all that it holds; of a link, the link alone. An absent folder is no error."""
    if folder.is_symlink() or folder.is_file():
        folder.unlink(missing_ok=True)
    elif folder.exists():
        shutil.rmtree(folder)  # removes links in the folder, and nothing behind them


def remove_link(path: Path) -> None:
    """Remove a symbolic link, and nothing behind it. Another file stays."""
    if path.is_symlink():
        path.unlink()


def refuse_linked_folders(run_path: Path) -> None:
    """Raise RunError if a folder in a run directory is a symbolic link, so that nothing is written through it."""
    for folder, folders, _ in os.walk(run_path):
        for name in folders:
            if (path := Path(folder) / name).is_symlink():
                raise RunError(
                    f"{path}: is a symbolic link, and gdig writes through none; put the folder itself there, or move "
                    "the whole run directory"
                )


def leftovers(run_path: Path) -> Iterator[Path]:
    """Yield the temporary files of a process that was killed, but none behind a link."""
    for folder, _, files in os.walk(run_path):
        yield from (Path(folder) / name for name in files if name.startswith(".") and name.endswith(".tmp"))
