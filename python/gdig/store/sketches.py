"""Sketches on disk: a directory of safetensors shards with checksums.

Shard `i // rows_per_shard` holds row `i` of a store. A file is complete or absent. Every safetensors reader can open a
shard; the checksum is in the metadata.
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
from gdig.store.numbered import numbered_file
from gdig.store.tensor_file import Damage, contiguous

SketchDtype = Literal["float16", "bfloat16", "int8", "float32"]

STORE_JSON = "store.json"
"""The name of a store's description."""

_COLUMNS = {
    "valid": ("uint8", 1), "tokens": ("int32", 1), "cut": ("int32", 1), "hash": ("uint64", 1), "loss": ("float32", 1),
    "influence": ("float32", 2), "hidden": ("float16", 2), "cosine": ("float32", 2),
}  # fmt: skip
"""The type and the dimensions of the columns that a pass over a pool writes beside the sketch."""

INVALID_LABEL = 4_294_967_295
"""The label (uint32) of an invalid row."""


class StoreReport(NamedTuple):
    """What :meth:`SketchStore.verify` read without an error."""

    shards: int
    rows: int
    bytes: int
    missing: list[int]
    """Numbers of absent shards before the last shard on disk."""


class SketchStore:
    """Rows [n, dim] on disk, in shards of `rows_per_shard` rows.

    Make a store with :meth:`create` or :meth:`open`. As a context manager, a store flushes at the end of the block.

    A shard has these tensors:

    - `sketch` [n, dim], of the store's dtype.
    - `scale` [n] float32, for int8 only. A row is `sketch * scale`, with scale = max|x| / 127; a row of zeros has scale
      0.
    - `valid` [n] uint8, if :meth:`write_shard` got it. k-means skips a row whose `valid` is 0.
    - Any other tensor with n rows that :meth:`write_shard` got.

    Example:
        >>> import tempfile
        >>> with SketchStore.create(tempfile.mkdtemp(), dim=2, dtype="float32", rows_per_shard=4) as store:
        ...     store.append(np.arange(12, dtype=np.float32).reshape(6, 2))
        >>> store.shards, store.rows_float32(1).tolist()
        ([0, 1], [[8.0, 9.0], [10.0, 11.0]])
    """

    def __init__(self, path: Path, native: _native.Store, mask: NDArray[np.uint8] | None = None) -> None:
        self._path = path
        self._native = native
        self._mask = mask
        self._widths: dict[str, list[int]] = {"hidden": [native.dim]}

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
            path: the directory of the store; made if it is absent.
            dim: the number of columns of a row.
            dtype: the type of the stored rows.
            rows_per_shard: the number of rows of a full shard.
            overwrite: delete the shards of an existing store.

        Raises:
            StoreError: if the store exists and `overwrite` is False, or if the directory cannot be written.
            ValueError: if `dtype` is not one of the four types.
        """
        return cls(Path(path), _native.Store.create(path, dim, dtype, rows_per_shard, overwrite))

    @classmethod
    def describe(
        cls, path: str | Path, dim: int, *, dtype: SketchDtype, rows_per_shard: int, made_from: str
    ) -> SketchStore:
        """Write the description of a store whose shards say what they were made from. Its shards stay as they are.

        A shard that was made from something else then counts as absent.

        Args:
            path, dim, dtype, rows_per_shard: of :meth:`create`.
            made_from: what the rows depend on, of up to a few hundred characters.

        Raises:
            StoreError: if the directory cannot be written.
        """
        return cls(Path(path), _native.Store.describe(path, dim, dtype, rows_per_shard, made_from))

    @classmethod
    def expected(
        cls, path: str | Path, dim: int, *, dtype: SketchDtype, rows_per_shard: int, made_from: str
    ) -> SketchStore:
        """Return the store that a directory should hold, for a check. Its description is neither read nor written.

        Args:
            path, dim, dtype, rows_per_shard, made_from: of :meth:`describe`.

        Raises:
            StoreError: if no store has such numbers.
        """
        return cls(Path(path), _native.Store.expected(path, dim, dtype, rows_per_shard, made_from))

    @staticmethod
    def exists(path: str | Path) -> bool:
        """Whether a directory is a store. An empty store counts."""
        return (Path(path) / STORE_JSON).is_file()

    @classmethod
    def open(cls, path: str | Path, made_from: str | None = None) -> SketchStore:
        """Open a store. Shards may be missing (see :meth:`missing`).

        Args:
            path: the directory of the store.
            made_from: what its rows are to be made from; None accepts any.

        Raises:
            StoreError: if `path` is no store, if its store.json is damaged, or if it is made from something else.
        """
        store = cls(Path(path), _native.Store.open(path))
        if made_from is not None and store.made_from != made_from:
            raise StoreError(
                f"{Path(path) / STORE_JSON}: made from {store.made_from!r}, expected {made_from!r}: the store "
                "belongs to something else"
            )
        return store

    def __len__(self) -> int:
        """The number of rows to the end of the last shard, plus the appended rows that no shard holds yet."""
        return len(self._native)

    def __repr__(self) -> str:
        return f"SketchStore({str(self.path)!r}, dim={self.dim}, dtype={self.dtype!r}, rows={len(self)})"

    @property
    def path(self) -> Path:
        """The directory of the store."""
        return self._path

    @property
    def dim(self) -> int:
        """The number of columns of a row."""
        return self._native.dim

    @property
    def dtype(self) -> SketchDtype:
        """The type of the stored rows: float16, bfloat16, int8 or float32."""
        return cast(SketchDtype, self._native.dtype)

    @property
    def rows_per_shard(self) -> int:
        """The number of rows of a full shard."""
        return self._native.rows_per_shard

    @property
    def made_from(self) -> str:
        """What the rows were made from; every shard says the same. Empty for a store of :meth:`create`."""
        return self._native.made_from

    def origin_of(self, index: int) -> str:
        """Return what a shard on disk was made from: of a store that has grown, the origin of its last row."""
        return self._native.origin_of(self.shard_range(index)[1])

    def masked(self, eligible: NDArray[np.bool_]) -> SketchStore:
        """Return the store as a reader sees it that skips some rows: `valid` is 0 there.

        Args:
            eligible: [rows] bool; False for a row to skip. Memory holds a byte a row.

        Raises:
            ValueError: if there are fewer or more of them than rows.
        """
        if eligible.shape != (len(self),):
            raise ValueError(f"eligible: expected [{len(self)}], one for each row of the store, got {eligible.shape}")
        mask = eligible.astype(np.uint8)
        for index in self.shards:
            start, stop = self.shard_range(index)
            if "valid" in self._native.layout(index):
                mask[start:stop] &= self.tensor(index, "valid") != 0
        return SketchStore(self._path, self._native.masked(mask), mask)

    @property
    def n_shards(self) -> int:
        """The number of shards on disk."""
        return len(self._native.shard_indices())

    @property
    def shards(self) -> list[int]:
        """The numbers of the shards on disk, ascending."""
        return self._native.shard_indices()

    def shard_path(self, index: int) -> Path:
        """Return the path of the file of a shard. The file may be absent."""
        return numbered_file(self._path, index)

    def has_shard(self, index: int) -> bool:
        """Whether a shard is on disk. A shard on disk is complete."""
        return self.shard_path(index).is_file()

    def missing(self, n_rows: int) -> list[int]:
        """Return the numbers of the shards that a store of `n_rows` rows lacks.

        A shard is missing if its file is absent or unreadable, or has another number of rows.
        """
        return self._native.missing(n_rows)

    def damage(self, n_rows: int) -> dict[int, Damage]:
        """Read the shards on disk of a store of `n_rows` rows, on several threads, and return what is wrong, by shard.

        A shard is compared with its checksum, its place, its number of rows and what it was made from.
        """
        return {index: Damage(*cast(Any, damage)) for index, damage in self._native.damage(n_rows)}

    def absent(self, n_rows: int) -> list[int]:
        """Return the numbers of the shards of a store of `n_rows` rows that are not on disk, ascending."""
        return sorted(set(range(-(-n_rows // self.rows_per_shard))).difference(self.shards))

    def shard_range(self, index: int) -> tuple[int, int]:
        """Return the first row of a shard on disk, and the row after its last row."""
        start = index * self.rows_per_shard
        return start, start + self._native.shard_len(index)

    def append(self, rows: NDArray[Any]) -> None:
        """Add rows at the end of the store.

        A full shard is written at once; :meth:`flush` writes a last, shorter shard. A later call continues a shorter
        last shard and writes it again, unless the shard has tensors besides the sketch.

        Args:
            rows: [n, dim] float32, float16 or float64, C-contiguous. float64 is first rounded to float32.

        Raises:
            StoreError: if a number is not finite or overflows the store's dtype, and the message names its row; if the
                disk is full; or if the store lacks a shard before its last one. The store then has the rows of the
                full shards that were written, and no other row of the batch.
        """
        self._native.append(rows)

    def flush(self) -> None:
        """Write the rows that no shard holds yet as the last, shorter shard."""
        self._native.flush()

    def __enter__(self) -> SketchStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.flush()

    def write_shard(self, index: int, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Write a whole shard, complete or not at all. An existing shard is replaced.

        Args:
            index: the number of the shard.
            tensors: `sketch` [n, dim] float32, float16 or float64, which is converted to the store's dtype. Other
                tensors with n rows are stored without conversion: float16/32/64, int8/32/64, uint8/32/64; bool
                becomes uint8. 1 <= n <= rows_per_shard.

        Raises:
            StoreError: if a number of `sketch` is not finite or overflows the dtype, or if a tensor has another number
                of rows. Also if the file cannot be written. The message names the row, the tensor or the file.
        """
        extra_tensors = contiguous(tensors)
        if "sketch" not in extra_tensors:
            raise StoreError(
                f"{self.shard_path(index)}: tensors={sorted(extra_tensors)}: expected a tensor 'sketch'; "
                f"add the rows [n, {self.dim}] under this name"
            )
        self._native.write_shard(index, extra_tensors.pop("sketch"), extra_tensors)

    def extend_shard(self, index: int, before: int, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Add rows to a shard that is not full, complete or not at all. Its own rows stay as they are stored.

        Args:
            index: the number of the shard.
            before: the number of its rows.
            tensors: of the rows to add, as of :meth:`write_shard`: those that the shard has.

        Raises:
            StoreError: if the shard is absent or damaged, if it has other rows or tensors, or if it cannot be written.
        """
        more = contiguous(tensors)
        self._native.extend_shard(index, before, more.pop("sketch"), more)

    def rows(self, index: int) -> NDArray[Any]:
        """Return the stored sketches [n, dim] of a shard, read-only and memory-mapped.

        NumPy lacks bfloat16, so bfloat16 rows are returned as the uint16 of their bits. int8 rows are returned without
        their scale. :meth:`rows_float32` returns the numbers of any dtype.

        Raises:
            StoreError: if the shard is absent or damaged.
        """
        return self.tensor(index, "sketch")

    def rows_float32(self, index: int) -> NDArray[np.float32]:
        """Return the sketches [n, dim] of a shard as float32, in memory.

        Raises:
            StoreError: if the shard is absent or damaged.
        """
        return self._native.rows_float32(index)

    def tensor(self, index: int, name: str) -> NDArray[Any]:
        """Return one tensor of a shard, read-only and memory-mapped; of a masked store, `valid` is that of the mask.

        Raises:
            StoreError: if the shard is absent or damaged, or lacks the tensor.
        """
        if self._mask is not None and name == "valid":
            start, stop = self.shard_range(index)
            return self._mask[start:stop]
        layout = self._native.layout(index)
        if name not in layout:
            raise StoreError(f"{self.shard_path(index)}: tensor {name!r}: expected one of {', '.join(layout)}")
        dtype, shape, offset = layout[name]
        self._check_column(index, name, dtype, shape)
        if 0 in shape:
            return np.empty(shape, dtype)
        return np.memmap(self.shard_path(index), dtype=dtype, mode="r", offset=offset, shape=tuple(shape))

    def _check_column(self, index: int, name: str, dtype: str, shape: list[int]) -> None:
        """Check a column of a run: its type, and that it is as wide as in the shards read before."""
        if not self.made_from or name not in _COLUMNS:  # a user's store, whose columns may be of any kind
            return
        expected = _COLUMNS[name]
        width = self._widths.setdefault(name, shape[1:]) if (dtype, len(shape)) == expected else None
        if width != shape[1:]:
            wanted = f"{expected[0]} of {expected[1]} dimensions, as wide as in the shards before"
            raise StoreError(f"{self.shard_path(index)}: tensor {name!r}: expected {wanted}; got {dtype} {shape}")

    @property
    def tensor_names(self) -> list[str]:
        """The sorted names of the tensors in the first shard on disk. An empty store has no names."""
        shards = self._native.shard_indices()
        return sorted(self._native.layout(shards[0])) if shards else []

    def verify(self) -> StoreReport:
        """Read every shard, in parallel, and compare its checksum.

        Raises:
            StoreError: if a shard is damaged; the message lists every damaged shard and its damage.
        """
        return StoreReport(*self._native.verify())
