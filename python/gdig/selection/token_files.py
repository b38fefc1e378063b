"""The token ids of the pool's valid rows, in files split as the sweep's shards are, for methods that need no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gdig.data.tokens import Example
from gdig.errors import OtherRunError
from gdig.run.layout import RunLayout
from gdig.run.origin import origin_at
from gdig.run.session import Workspace
from gdig.store.sketches import SketchStore
from gdig.store.tensor_file import CheckedFile, check_offsets, damage_of


@dataclass(frozen=True)
class TokenRows:
    """Token ids of n rows, one row after another.

    ids: int32 [T]. offsets: int64 [n + 1]; row i has the ids from offsets[i] to offsets[i + 1] - 1, none if it is
    invalid.
    """

    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, int64 [n]."""
        return np.diff(self.offsets)

    @property
    def row_of(self) -> NDArray[np.int64]:
        """The row of each id, int64 [T]."""
        return np.repeat(np.arange(len(self)), self.lengths)


@dataclass(frozen=True)
class TokenFiles:
    """The files of a run: one for each shard of the sweep, and one of the seeds.

    layout: of the run. store: its sweep, whose origins the files have.
    """

    layout: RunLayout
    store: SketchStore

    def shard(self, shard: int) -> CheckedFile:
        """Return the file of a shard."""
        return self.layout.checked(self.layout.tokens_of(shard), self.store.origin_of(shard))

    @property
    def seeds(self) -> CheckedFile:
        """The file of the seeds."""
        return self.layout.checked(self.layout.seed_tokens, origin_at(self.store.made_from, 0))

    def of_shard(self, shard: int) -> TokenRows:
        """Read the rows of a shard.

        Raises:
            StoreError: when the file is missing or damaged.
        """
        return _read(self.shard(shard))

    def of_seeds(self) -> TokenRows:
        """Read the seeds.

        Raises:
            StoreError: when the file is missing or damaged.
        """
        return _read(self.seeds)


def ensure_tokens(work: Workspace, store: SketchStore) -> None:
    """Write the token files that the run lacks: each row is tokenized again, as for the sweep.

    It takes 4 bytes a token on the disk and the memory of one shard. A sweep does not keep the ids, because most
    methods do not need them.

    Raises:
        RunError: naming a row whose tokens are not those of the sweep.
    """
    files = TokenFiles(work.layout, store)
    shards = store.shards
    of_seeds, *of_shards = damage_of([files.seeds, *map(files.shard, shards)])
    for damage in (of_seeds, *of_shards):
        if damage is not None and damage.state != "missing":
            work.progress.warn(f"{damage.what}; its rows are tokenized again")
    missing = [shard for shard, damage in zip(shards, of_shards, strict=True) if damage is not None]
    if of_seeds is not None:
        write_rows(files.seeds, work.seed_examples)
    if not missing:
        return
    ranges = [store.shard_range(shard) for shard in missing]
    work.require_all_files(ranges[-1][1])
    rows = sum(stop - start for start, stop in ranges)
    with work.progress.stage("tokens", len(store), done=len(store) - rows) as bar:
        for shard, (start, stop) in zip(missing, ranges, strict=True):
            encoded = work.encoder.encode(work.candidates, range(start, stop))
            hashes, valid = store.tensor(shard, "hash"), store.tensor(shard, "valid")
            examples: list[Example | None] = [None] * (stop - start)
            for place in np.flatnonzero(valid).tolist():
                example = encoded[place]
                if not isinstance(example, Example) or example.hash != int(hashes[place]):
                    raise OtherRunError(
                        f"{work.candidates.where(start + place)}: expected the tokens that the sweep saw, got others; "
                        "another version of the tokenizer made the sweep: sweep again with --overwrite"
                    )
                examples[place] = example
            write_rows(files.shard(shard), examples)
            bar.advance(stop - start)


def write_rows(file: CheckedFile, examples: Sequence[Example | None]) -> None:
    """Write the ids of rows; None is a row without tokens."""
    ids = [np.zeros(0, np.int32) if example is None else example.input_ids for example in examples]
    offsets = np.cumsum([0, *map(len, ids)], dtype=np.int64)
    file.write({"ids": np.concatenate([*ids, np.zeros(0, np.int32)]), "offsets": offsets})


def _read(file: CheckedFile) -> TokenRows:
    tensors, _ = file.read()
    tensors.shaped(ids="int32 T", offsets="int64 n")
    check_offsets(file.path, "offsets", tensors["offsets"], len(tensors["ids"]))
    return TokenRows(tensors["ids"], tensors["offsets"])
