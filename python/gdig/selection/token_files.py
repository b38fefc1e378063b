"""The token ids of the pool's valid rows, in files split as the sweep's shards are, for methods that need no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gdig.data.tokens import Example
from gdig.errors import RunError
from gdig.run.session import Workspace
from gdig.store.sketches import SketchStore
from gdig.store.tensor_file import read_tensors, write_tensors


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

    folder: where they lie.
    """

    folder: Path

    def of_shard(self, shard: int) -> TokenRows:
        """Read the rows of a shard.

        Raises:
            StoreError: when the file is missing or damaged.
        """
        return _read(self.folder / f"{shard:08d}.safetensors")

    def of_seeds(self) -> TokenRows:
        """Read the seeds.

        Raises:
            StoreError: when the file is missing or damaged.
        """
        return _read(self.folder / "seeds.safetensors")


def ensure_tokens(work: Workspace, store: SketchStore) -> None:
    """Write the token files that the run lacks: each row is tokenized again, as for the sweep.

    It takes 4 bytes a token on the disk and the memory of one shard. A sweep does not keep the ids, because most
    methods do not need them.

    Raises:
        RunError: naming a row whose tokens are not those of the sweep.
    """
    layout = work.layout
    missing = [shard for shard in store.shards if not layout.tokens_of(shard).is_file()]
    if not layout.seed_tokens.is_file():
        write_rows(layout.seed_tokens, work.seed_examples)
    if not missing:
        return
    ranges = [store.shard_range(shard) for shard in missing]
    rows = sum(stop - start for start, stop in ranges)
    with work.progress.stage("tokens", len(store), done=len(store) - rows) as bar:
        for shard, (start, stop) in zip(missing, ranges, strict=True):
            encoded = work.encoder.encode(work.candidates, range(start, stop))
            hashes, valid = store.tensor(shard, "hash"), store.tensor(shard, "valid")
            examples: list[Example | None] = [None] * (stop - start)
            for place in np.flatnonzero(valid).tolist():
                example = encoded[place]
                if not isinstance(example, Example) or example.hash != int(hashes[place]):
                    raise RunError(
                        f"{work.candidates.where(start + place)}: expected the tokens that the sweep saw, got others; "
                        "another version of the tokenizer made the sweep: sweep again with --overwrite"
                    )
                examples[place] = example
            write_rows(layout.tokens_of(shard), examples)
            bar.advance(stop - start)


def write_rows(file: Path, examples: Sequence[Example | None]) -> None:
    """Write the ids of rows; None is a row without tokens."""
    ids = [np.zeros(0, np.int32) if example is None else example.input_ids for example in examples]
    offsets = np.cumsum([0, *map(len, ids)], dtype=np.int64)
    write_tensors(file, {"ids": np.concatenate([*ids, np.zeros(0, np.int32)]), "offsets": offsets})


def _read(file: Path) -> TokenRows:
    tensors, _ = read_tensors(file)
    return TokenRows(tensors["ids"], tensors["offsets"])
