"""Files that are numbered within a folder: shards, resume files of shards, seeds."""

from __future__ import annotations

from pathlib import Path


def numbered_file(folder: Path, number: int) -> Path:
    """Return the path of a file by its number. The names sort as the numbers do."""
    return folder / f"{number:08d}.safetensors"
