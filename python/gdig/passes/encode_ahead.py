"""Shards of the pool as batches of tokens, made ahead of the model pass by other processes when asked to."""

from __future__ import annotations

import os
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
from gdig.progress import Progress
from gdig.run.session import Workspace


@dataclass(frozen=True)
class EncodedShard:
    """Rows start .. stop - 1 of the pool, ready for the model.

    Of the n rows that could be encoded, in order: places int64 [n] (row - start), tokens and cut int32 [n], hash uint64
    [n]. errors: of the others, in order. batches: their `rows` index the n.
    """

    start: int
    stop: int
    places: np.ndarray
    tokens: np.ndarray
    cut: np.ndarray
    hash: np.ndarray
    errors: list[CorpusError]
    batches: list[Batch]


def encode_shard(
    corpus: Corpus, encoder: Encoder, start: int, stop: int, token_batch_size: int, window: int | None
) -> EncodedShard:
    """Encode rows start .. stop - 1 of a corpus, and cut them into batches (see `make_batches`)."""
    encoded = encoder.encode(corpus, range(start, stop))
    places = [place for place, example in enumerate(encoded) if isinstance(example, Example)]
    examples = [example for example in encoded if isinstance(example, Example)]
    return EncodedShard(
        start,
        stop,
        np.array(places, dtype=np.int64),
        np.array([len(example) for example in examples], dtype=np.int32),
        np.array([example.cut for example in examples], dtype=np.int32),
        np.array([example.hash for example in examples], dtype=np.uint64),
        [example for example in encoded if isinstance(example, CorpusError)],
        make_batches(examples, token_batch_size, window=window),
    )


class Feed(Dataset):
    """Encodes shards of a run's pool, here or in worker processes.

    Args:
        work: whose pool, tokenizer and limits.
        shards: (start, stop) of each.
        token_batch_size: tokens in a batch.
        workers: processes that work ahead, two shards each; 0: encode here, when asked.
    """

    def __init__(
        self, work: Workspace, shards: Sequence[tuple[int, int]], token_batch_size: int, workers: int = 0
    ) -> None:
        self._config: Config = work.config
        self._work: Workspace | None = work
        self._shards = list(shards)
        self._token_batch_size = token_batch_size
        self._workers = min(workers, len(self._shards))

    def __len__(self) -> int:
        return len(self._shards)

    def __getitem__(self, index: int) -> EncodedShard:
        if self._work is None:  # in a worker: opens its own pool and tokenizer
            self._work = Workspace(self._config, Progress(quiet=True))
        start, stop = self._shards[index]
        work = self._work
        return encode_shard(work.candidates, work.encoder, start, stop, self._token_batch_size, work.limits.window)

    def over(self, numbers: Iterable[int]) -> Iterator[tuple[int, EncodedShard]]:
        """The shards of these numbers, in their order; workers ask for some numbers ahead.

        Raises:
            GdigError: of opening or reading the pool.
            RunError: when a worker process dies.
        """
        if not self._workers:
            yield from ((number, self[number]) for number in numbers)
            return
        loader = DataLoader(
            _Guarded(self),
            batch_size=None,
            sampler=numbers,
            num_workers=self._workers,
            collate_fn=_as_is,
            worker_init_fn=_begin,
        )
        try:
            for number, result in loader:
                if isinstance(result, Exception):
                    raise result
                yield number, result
        except RuntimeError as error:  # how torch says that one of them is gone
            raise RunError(f"a process that tokenises has died (out of memory?): {error}") from error


class _Guarded(Dataset):
    """Hands gdig's own errors over as results: raised in a worker, they would arrive wrapped in its traceback."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed

    def __len__(self) -> int:
        return len(self.feed)

    def __getitem__(self, number: int) -> tuple[int, EncodedShard | GdigError]:
        try:
            return number, self.feed[number]
        except GdigError as error:
            return number, error

    def reopen(self) -> None:
        """Forget what the parent has open: files share their position with it."""
        self.feed._work = None


def _begin(_: int) -> None:
    """Set up a worker: one thread, so that as many workers as asked for take as many cores."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    info = get_worker_info()
    assert info is not None
    guarded = info.dataset
    assert isinstance(guarded, _Guarded)
    guarded.reopen()


def _as_is(shard: Any) -> Any:
    return shard
