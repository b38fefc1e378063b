"""Sketches on disk: a directory of checksummed safetensors shards, and single files of the same kind.

Row `i` of a store lies in shard `i // rows_per_shard`. A file is complete or absent, and any safetensors reader
opens it; the checksum is in its metadata.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from gdig import _native
from gdig.errors import StoreError
from gdig.store.tensor_file import contiguous

SketchDtype = Literal["float16", "bfloat16", "int8", "float32"]

INVALID_LABEL = 4_294_967_295
"""Label (uint32) of a row that is invalid."""


class StoreReport(NamedTuple):
    """What :meth:`SketchStore.verify` read, all of it sound."""

    shards: int
    rows: int
    bytes: int
    missing: list[int]
    """Shards that are absent although a later one is there."""


class SketchStore:
    """Rows [n, dim] in shards of `rows_per_shard`, with further tensors of n rows each where they were given.

    A shard's tensors: `sketch` [n, dim] of the store's dtype; for int8 also `scale` [n] float32, so that a row is
    `sketch * scale` (scale = max|x| / 127, 0 for a row of zeros). Rows whose `valid` [n] uint8 is 0 are skipped by
    k-means. Make one with :meth:`create` or :meth:`open`; as a context manager it flushes on leaving.
    """

    def __init__(self, path: Path, native: _native.Store) -> None:
        self._path = path
        self._native = native

    @classmethod
    def create(
        cls,
        path: str | Path,
        dim: int,
        *,
        dtype: SketchDtype = "float16",
        rows_per_shard: int = 16_384,
        overwrite: bool = False,
    ) -> SketchStore:
        """Make an empty store.

        Args:
            path: directory of the store; made if it is absent.
            dim: columns of a row.
            dtype: type of the stored rows.
            rows_per_shard: rows of a full shard.
            overwrite: delete the shards of a store that is there.

        Raises:
            StoreError: if a store is there and `overwrite` is not set, or the directory cannot be written.
            ValueError: if `dtype` is none of the four.
        """
        return cls(Path(path), _native.Store.create(path, dim, dtype, rows_per_shard, overwrite))

    @staticmethod
    def exists(path: str | Path) -> bool:
        """Say whether a directory is a store, which may be empty."""
        return (Path(path) / "store.json").is_file()

    @classmethod
    def open(cls, path: str | Path) -> SketchStore:
        """Open a store; shards may be missing (see :meth:`missing`).

        Raises:
            StoreError: if there is none, or its store.json is damaged.
        """
        return cls(Path(path), _native.Store.open(path))

    def __len__(self) -> int:
        """Rows up to the end of the last shard, and those appended but not flushed."""
        return len(self._native)

    def __repr__(self) -> str:
        return f"SketchStore({str(self.path)!r}, dim={self.dim}, dtype={self.dtype!r}, rows={len(self)})"

    @property
    def path(self) -> Path:
        """Directory of the store."""
        return self._path

    @property
    def dim(self) -> int:
        """Columns of a row."""
        return self._native.dim

    @property
    def dtype(self) -> SketchDtype:
        """Type of the stored rows: float16, bfloat16, int8 or float32."""
        return cast(SketchDtype, self._native.dtype)

    @property
    def rows_per_shard(self) -> int:
        """Rows of a full shard."""
        return self._native.rows_per_shard

    @property
    def n_shards(self) -> int:
        """Shards on disk."""
        return len(self._native.shard_indices())

    @property
    def shards(self) -> list[int]:
        """Numbers of the shards on disk, ascending."""
        return self._native.shard_indices()

    def shard_path(self, index: int) -> Path:
        """Return the file of a shard, whether it is there or not."""
        return self._path / f"{index:08d}.safetensors"

    def has_shard(self, index: int) -> bool:
        """Say whether a shard is on disk (and then it is complete)."""
        return self.shard_path(index).is_file()

    def missing(self, n_rows: int) -> list[int]:
        """Return the shards that a store of `n_rows` rows still lacks: absent, unreadable, or of another length."""
        return self._native.missing(n_rows)

    def shard_range(self, index: int) -> tuple[int, int]:
        """Return (first row, one past the last row) of a shard on disk."""
        start = index * self.rows_per_shard
        return start, start + self._native.shard_len(index)

    def append(self, rows: NDArray[Any]) -> None:
        """Add rows at the end; each shard is written when it is full, the last one by :meth:`flush`.

        A last shard that is shorter is continued (and written again), unless it holds tensors besides the sketch.

        Args:
            rows: [n, dim] float32, float16 or float64 (rounded to float32 first), C-contiguous.

        Raises:
            StoreError: naming the row that is not finite or overflows the store's dtype (nothing of the batch after
                the last full shard is then kept); if the disk is full (the rows that fit no shard on disk stay out);
                if the store has gaps.
        """
        self._native.append(rows)

    def flush(self) -> None:
        """Write the rows that wait for a full shard as the last, shorter one."""
        self._native.flush()

    def __enter__(self) -> SketchStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.flush()

    def write_shard(self, index: int, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Write a whole shard, complete or not at all; one that is there is replaced.

        Args:
            index: number of the shard.
            tensors: `sketch` [n, dim] float32, float16 or float64, converted to the store's dtype, and any others
                with n rows, stored as they are (float16/32/64, int8/32/64, uint8/32/64; bool becomes uint8).
                1 <= n <= rows_per_shard.

        Raises:
            StoreError: naming the row of `sketch` that is not finite or overflows the dtype, the tensor whose number
                of rows differs, or the file that cannot be written.
        """
        others = contiguous(tensors)
        if "sketch" not in others:
            raise StoreError(f"{self.shard_path(index)}: expected a tensor 'sketch', got {sorted(others)}")
        self._native.write_shard(index, others.pop("sketch"), others)

    def rows(self, index: int) -> NDArray[Any]:
        """Return a shard's sketches [n, dim] as stored, read-only and memory-mapped.

        NumPy has no bfloat16: such rows come as the uint16 of their bits. int8 rows lack their scale; see
        :meth:`rows_float32`.
        """
        return self.tensor(index, "sketch")

    def rows_float32(self, index: int) -> NDArray[np.float32]:
        """Return a shard's sketches [n, dim] as float32, in memory."""
        return self._native.rows_float32(index)

    def tensor(self, index: int, name: str) -> NDArray[Any]:
        """Return one tensor of a shard, read-only and memory-mapped.

        Raises:
            StoreError: if the shard is absent or damaged, or lacks that tensor.
        """
        layout = self._native.layout(index)
        if name not in layout:
            raise StoreError(f"{self.shard_path(index)}: no tensor {name!r}; it holds {', '.join(layout)}")
        dtype, shape, offset = layout[name]
        if 0 in shape:
            return np.empty(shape, dtype)
        return np.memmap(self.shard_path(index), dtype=dtype, mode="r", offset=offset, shape=tuple(shape))

    @property
    def tensor_names(self) -> list[str]:
        """Names of the tensors in the first shard on disk, sorted; empty for an empty store."""
        shards = self._native.shard_indices()
        return sorted(self._native.layout(shards[0])) if shards else []

    def verify(self) -> StoreReport:
        """Read every shard, in parallel, and compare its checksum.

        Raises:
            StoreError: listing every bad shard and what is wrong with it.
        """
        return StoreReport(*self._native.verify())
