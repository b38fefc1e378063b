"""Rows of a Parquet file or a `datasets` folder, memory-mapped through `datasets`."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gdig.data.cache import cached_folder
from gdig.data.fingerprint import fingerprint_file
from gdig.errors import CorpusError

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

_VERSION = 1  # of the converted files; files of another version are not used
_BATCH_ROWS = 8192


class ArrowRows:
    """The rows of one Arrow table on disk, as stored (images, audio and the like are not decoded)."""

    def __init__(self, path: Path, dataset: Dataset) -> None:
        self.path = path
        if len(dataset) == 0:
            raise CorpusError(f"{path}: holds no rows, expected at least one")
        self.schema: pa.Schema = dataset.features.arrow_schema.remove_metadata()
        self._dataset = dataset.with_format("arrow")

    @classmethod
    def from_folder(cls, path: Path) -> ArrowRows:
        """Open a folder that `Dataset.save_to_disk` wrote.

        Raises:
            CorpusError: if the folder is of another kind, is damaged, or holds several splits (naming the splits).
        """
        import datasets

        if (path / "dataset_dict.json").is_file():
            splits = sorted(child.name for child in path.iterdir() if (child / "state.json").is_file())
            raise CorpusError(
                f"{path}: a datasets folder of several splits ({', '.join(splits)}); name one, for instance"
                f" {path / (splits[0] if splits else 'train')}"
            )
        if not (path / "state.json").is_file():
            raise CorpusError(
                f"{path}: a folder, but not one that datasets' save_to_disk wrote; name the files in it, for instance"
                f" '{path}/*.jsonl'"
            )
        try:
            return cls(path, datasets.load_from_disk(str(path)))
        except CorpusError:
            raise
        except Exception as error:  # datasets and pyarrow raise many kinds of errors on a damaged folder
            raise CorpusError(f"{path}: the datasets folder cannot be read: {error}") from None

    @classmethod
    def from_parquet(cls, path: Path, cache: Path) -> ArrowRows:
        """Open a Parquet file. The file is converted once to Arrow in the cache, where any row is read directly.

        Raises:
            CorpusError: if the file is damaged or holds a type that `datasets` does not know.
        """
        import datasets
        import pyarrow as pa

        key = f"parquet-{_VERSION}-{fingerprint_file(path)['hash']}"
        try:
            folder = cached_folder(cache, key, lambda folder: _convert(path, folder))
            return cls(path, datasets.Dataset.from_file(str(folder / "data.arrow")))
        except (pa.ArrowException, ValueError, TypeError, NotImplementedError) as error:
            raise CorpusError(f"{path}: cannot be read as Parquet: {error}") from None

    def __len__(self) -> int:
        return len(self._dataset)

    def fields(self) -> tuple[str, ...]:
        """Return the names of the columns."""
        return tuple(self.schema.names)

    def rows(self, start: int, stop: int, columns: frozenset[str] | None = None) -> list[dict[str, Any]]:
        """Return the rows from `start` up to `stop`, with those of `columns` that there are; None: all columns."""
        return self._of(columns)[start:stop].to_pylist() if start < stop else []

    def take(self, indices: Sequence[int], columns: frozenset[str] | None = None) -> list[dict[str, Any]]:
        """Return the rows at `indices`, in that order, with those of `columns` that there are; None: all columns."""
        return self._of(columns)[list(indices)].to_pylist() if len(indices) else []

    def _of(self, columns: frozenset[str] | None) -> Dataset:
        if columns is None:
            return self._dataset
        return self._dataset.select_columns([name for name in self.schema.names if name in columns])

    def line(self, i: int) -> int | None:
        """Return None: these files have no lines."""
        return None


def _convert(path: Path, folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with contextlib.closing(pq.ParquetFile(path)) as file:
        schema = file.schema_arrow
        if repeated := {name for name in schema.names if schema.names.count(name) > 1}:
            raise CorpusError(
                f"{path}: two columns are named {sorted(repeated)[0]!r}; expected a name for each; rename one"
            )
        # datasets has no dictionary-encoded type. The values are the same without the encoding.
        plain = pa.schema([f.with_type(f.type.value_type) if pa.types.is_dictionary(f.type) else f for f in schema])
        with pa.OSFile(str(folder / "data.arrow"), "wb") as out, pa.ipc.new_stream(out, plain) as writer:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                writer.write_table(pa.Table.from_batches([batch]).cast(plain))
