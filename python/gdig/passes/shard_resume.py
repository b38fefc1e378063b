"""The resume file of a shard, or of the seeds beside the shards: the rows that are done, while the others are not."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gdig.background import Background
from gdig.errors import StoreError
from gdig.model.batches import Batch
from gdig.store.resume_file import Pace, ResumeFile

Columns = dict[str, NDArray[Any]]
"""Numbers of the n encoded rows of a shard by name, each with n lines, as the model pass gives them."""


class ShardResume:
    """Keeps the rows of a shard that are done, or the seeds.

    The batches of a shard are fixed, and a row depends on its batch alone. So a shard that is made of kept rows and of
    the batches that were missing has the same bits.

    Args:
        file: the resume file.
        pace: says when to write.
        writer: writes beside the model pass.
    """

    def __init__(self, file: ResumeFile, pace: Pace, writer: Background) -> None:
        self._file, self._pace, self._writer = file, pace, writer

    def load(self, columns: Columns) -> NDArray[np.bool_]:
        """Fill the kept rows into `columns`, and return which rows these are: bool [n]."""
        n = len(next(iter(columns.values())))
        done = np.zeros(n, dtype=bool)
        if (content := self._file.read()) is None:
            return done
        tensors, _ = content
        try:
            rows = tensors["rows"]
            for name, column in columns.items():
                column[rows] = tensors[name]
            done[rows] = True
        except (IndexError, TypeError, ValueError, StoreError) as error:
            self._file.discard(f"{self._file.path}: holds no rows of this shard ({error})")
            done[:] = False
        return done

    def keep(self, done: NDArray[np.bool_], columns: Columns, *, now: bool = False) -> None:
        """Write the rows that are done, if the file is due or `now`."""
        if not (now or self._pace.due()) or not done.any():
            return
        rows = np.flatnonzero(done)
        self._pace.restart()
        self._writer.submit(self._write, {"rows": rows, **{name: column[rows] for name, column in columns.items()}})

    def remove(self) -> None:
        """Remove the file, once the shard is whole."""
        self._file.remove()
        self._pace.restart()

    def _write(self, tensors: Columns) -> None:
        with self._pace.writing():
            self._file.write(tensors)


def batches_digest(hashes: NDArray[np.uint64], positions: NDArray[np.int64], batches: Sequence[Batch]) -> str:
    """Return a hash of rows and of their batches: 16 hexadecimal digits.

    Args:
        hashes: [n], of the tokens and labels of each row. positions: [n], of each row in its shard.
        batches: whose `rows` are indices 0 .. n - 1.
    """
    digest = blake2b(hashes.tobytes() + positions.tobytes(), digest_size=8)
    for batch in batches:
        digest.update(np.array(batch.shape).tobytes() + batch.rows.tobytes())
    return digest.hexdigest()
