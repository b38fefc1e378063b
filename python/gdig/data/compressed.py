"""Files that are compressed by gzip or zstd. A copy without compression is made once, in the cache.

A row can be read at random from the copy, at the cost of its size on the disk. An index of points from which a gzip
stream can be read would need a library, and most zstd files have no such point.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import IO, cast

from gdig.data.cache import cached_folder
from gdig.errors import CorpusError, MissingFileError

COMPRESSIONS = (".gz", ".zst", ".zstd")
_VERSION = 1
_BLOCK = 1 << 20


def decompressed(path: Path, cache: Path) -> Path:
    """Return a file of the cache with the content of a compressed file. It has the ending that stands before .gz.

    Raises:
        CorpusError: if the file is damaged or cut short, or if the cache cannot be written.
    """
    import pyarrow as pa

    name = f"data{Path(path.stem).suffix.lower()}"

    def build(folder: Path) -> None:
        # An error of the cache's disk passes through, so reads and writes are told apart.
        with (folder / name).open("wb") as copy:
            try:
                source = _open(path)
            except OSError as error:
                raise MissingFileError(f"{path}: cannot be read: {error.strerror or error}") from None
            with source:
                while True:
                    try:
                        block = source.read(_BLOCK)
                    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
                        raise CorpusError(
                            f"{path}: cannot be decompressed: {error}; is the file complete? copy it again"
                        ) from None
                    if not block:
                        break
                    copy.write(block)

    return cached_folder(cache, f"plain-{_VERSION}{Path(name).suffix}", path, build) / name


def _open(path: Path) -> IO[bytes]:
    if path.suffix.lower() == ".gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    import pyarrow as pa

    return cast(IO[bytes], pa.input_stream(str(path), compression="zstd"))
