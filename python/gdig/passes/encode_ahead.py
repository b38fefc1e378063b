"""Shards of the pool as batches of tokens. With the option `workers`, processes make the batches ahead of the model."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset, get_worker_info

from gdig.config.config import Config
from gdig.data.corpus import Corpus
from gdig.data.tokens import Encoder, Example
from gdig.errors import CorpusError, GdigError, RunError
from gdig.model.batches import Batch, make_batches
from gdig.model.directory import Limits
from gdig.progress import Progress
from gdig.run.session import Workspace


@dataclass(frozen=True)
class EncodedShard:
    """Rows start .. stop - 1 of the pool, of one shard, ready for the model. n of them can be encoded.

    Attributes:
        start: the first row.
        stop: the row after the last row.
        positions: int64 [n], row - start of each encoded row, ascending.
        tokens: int32 [n], the number of tokens.
        cut: int32 [n], the number of tokens that were cut to fit the window.
        hash: uint64 [n], the hash of tokens and labels.
        errors: the errors of the rows that cannot be encoded, in order.
        batches: the batches of the n rows. Their `rows` are indices 0 .. n - 1.
    """

    start: int
    stop: int
    positions: np.ndarray
    tokens: np.ndarray
    cut: np.ndarray
    hash: np.ndarray
    errors: list[CorpusError]
    batches: list[Batch]


def encode_shard(
    corpus: Corpus, encoder: Encoder, start: int, stop: int, token_batch_size: int, limits: Limits
) -> EncodedShard:
    """Encode rows start .. stop - 1 of a corpus, and split them into batches (see `make_batches`)."""
    encoded = encoder.encode(corpus, range(start, stop))
    positions = [position for position, example in enumerate(encoded) if isinstance(example, Example)]
    examples = [example for example in encoded if isinstance(example, Example)]
    return EncodedShard(
        start,
        stop,
        np.array(positions, dtype=np.int64),
        np.array([len(example) for example in examples], dtype=np.int32),
        np.array([example.cut for example in examples], dtype=np.int32),
        np.array([example.hash for example in examples], dtype=np.uint64),
        [example for example in encoded if isinstance(example, CorpusError)],
        make_batches(examples, token_batch_size, window=limits.window, rotary_switch=limits.rotary_switch),
    )


class Feed(Dataset):
    """Encodes shards of a run's pool, in this process or in worker processes.

    Args:
        work: the workspace with the pool, the tokenizer and the model's limits.
        shards: of each shard, (start, stop) of the spans of rows whose batches are made by themselves.
        token_batch_size: the number of tokens in a batch.
        workers: the number of worker processes; each encodes two shards ahead. 0: this process encodes.
    """

    def __init__(
        self, work: Workspace, shards: Sequence[Sequence[tuple[int, int]]], token_batch_size: int, workers: int = 0
    ) -> None:
        self._config: Config = work.config
        self._today = work.today
        self._work: Workspace | None = work
        self._shards = list(shards)
        self._token_batch_size = token_batch_size
        self._workers = min(workers, len(self._shards))

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is open: a worker that is not forked (macOS, Windows, Python 3.14) gets a pickle."""
        return {**self.__dict__, "_work": None}

    def __len__(self) -> int:
        return len(self._shards)

    def __getitem__(self, index: int) -> list[EncodedShard]:
        if self._work is None:  # a worker opens its own pool and tokenizer
            self._work = Workspace(self._config, Progress(quiet=True), today=self._today)
        work, size = self._work, self._token_batch_size
        return [
            encode_shard(work.candidates, work.encoder, start, stop, size, work.limits)
            for start, stop in self._shards[index]
        ]

    def encode(self, numbers: Iterable[int]) -> Iterator[tuple[int, list[EncodedShard]]]:
        """Yield the shards of these numbers, in their order. Workers take some numbers ahead.

        Raises:
            GdigError: if the pool cannot be opened or read.
            RunError: if a worker process dies.
        """
        if not self._workers:
            yield from ((number, self[number]) for number in numbers)
            return
        loader = DataLoader(
            _SafeFeed(self),
            batch_size=None,
            sampler=numbers,
            num_workers=self._workers,
            collate_fn=_identity,
            worker_init_fn=_begin_worker,
        )
        results = iter(loader)
        try:
            for number, result in results:
                if isinstance(result, Exception):
                    raise result
                yield number, result
        except RuntimeError as error:
            if (died := of_dead_worker(error)) is None:
                raise
            raise died from error
        finally:
            for worker in getattr(results, "_workers", ()):  # torch waits seconds for one that is inside a shard
                worker.terminate()


def of_dead_worker(error: RuntimeError) -> RunError | None:
    """Return what to raise where torch says that a worker process has died; None for any other error.

    A signal handler of torch raises at whatever place the program is when it hears of the death.
    """
    if not re.match(r"DataLoader worker \(pid", str(error)):
        return None
    return RunError(f"a process that tokenises has died, perhaps for lack of memory; lower workers: {error}")


class _SafeFeed(Dataset):
    """Returns the errors of gdig as results. An error that a worker raises would arrive as text with a traceback."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed

    def __len__(self) -> int:
        return len(self.feed)

    def __getitem__(self, number: int) -> tuple[int, list[EncodedShard] | GdigError]:
        try:
            return number, self.feed[number]
        except GdigError as error:
            return number, error

    def reopen(self) -> None:
        """Drop the open files of the parent process. A worker would share their positions with the parent."""
        self.feed._work = None


def _begin_worker(_: int) -> None:
    """Set up a worker process with one thread, so that each worker takes one core."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    info = get_worker_info()
    assert info is not None
    feed = info.dataset
    assert isinstance(feed, _SafeFeed)
    feed.reopen()


def _identity(shard: Any) -> Any:
    return shard
