"""Batches and the device's memory: how large they may be, and what happens to one that does not fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch

from gdig.data.tokens import Example
from gdig.errors import ModelError
from gdig.model.batches import Batch, make_batches
from gdig.progress import Progress

T = TypeVar("T")
Part = TypeVar("Part")

CPU_TOKENS = 8192
"""token_batch_size="auto" on the CPU."""
_TRIALS = (1024, 4096)
_MOST_TOKENS = 1 << 17  # larger batches are no faster on any GPU we know of
_SHARE = 0.85  # of the memory, since batches of the same size differ, and so does its fragmentation


class Fitting(Generic[Part]):
    """Runs batches, in halves where the whole does not fit.

    Args:
        token_batch_size: tokens, pads included, in the largest batch to try; lowered when one does not fit.
        device: whose memory it is, for what is said.
        progress: where to say it.
        save_memory: called when one example alone does not fit; returns whether it found a way to try again.
    """

    def __init__(
        self,
        token_batch_size: int,
        device: torch.device,
        progress: Progress,
        save_memory: Callable[[], bool] = lambda: False,
    ) -> None:
        self.token_batch_size = token_batch_size
        self._device = device
        self._progress = progress
        self._save_memory = save_memory

    def each(self, batches: Sequence[Batch], run: Callable[[Batch, set[Part]], T]) -> Iterator[tuple[Batch, T]]:
        """Run every batch and yield it, or its parts one after another, with what `run` returned.

        `run` gets, beside a batch, a set of its own making: it notes there what it has added to sums over all batches,
        and passes over what is noted. So what a batch had added before its memory ran out is not added again when it
        comes in halves.

        Raises:
            ModelError: when one example alone does not fit.
        """
        todo: list[tuple[Batch, frozenset[Part]]] = [(batch, frozenset()) for batch in reversed(batches)]
        while todo:
            batch, before = todo.pop()
            noted = set(before)
            if batch.input_ids.size <= self.token_batch_size or len(batch.rows) == 1:
                try:
                    result = run(batch, noted)
                except torch.OutOfMemoryError:
                    pass  # dealt with below, when the traceback no longer keeps the tensors of the pass
                else:
                    yield batch, result
                    continue
                if self._learn(batch):
                    todo.append((batch, frozenset(noted)))
                    continue
            todo += [(half, frozenset(noted)) for half in reversed(batch.halves())]

    def _learn(self, batch: Batch) -> bool:
        """Remember that this many tokens do not fit. Returns whether the same batch is worth another try."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        lines, length = batch.shape
        if lines == 1:
            if self._save_memory():
                self._progress.warn(
                    f"out of memory at one example of {length} tokens: gradient_checkpointing is on now"
                )
                return True
            raise ModelError(
                f"one example of {length} tokens does not fit the memory of {self._device}; "
                "lower max_length or choose fewer layers with filter_modules"
            )
        self.token_batch_size = max(1, batch.input_ids.size // 2)
        self._progress.warn(f"out of memory: token_batch_size lowered to {self.token_batch_size}")
        return False


def find_token_batch_size(trial: Callable[[Batch], object], length: int, *, used: Callable[[], int], total: int) -> int:
    """How many tokens a batch may have, from two trials: memory grows with the tokens in a straight line.

    Args:
        trial: passes one batch; may run out of memory.
        length: tokens of a typical example.
        used: resets and returns the most memory in use since the last call, in bytes. total: what there is.

    Returns:
        Tokens in a multiple of 1,024, at least 1,024 and at most 131,072.
    """
    points = []
    for tokens in _TRIALS:
        try:
            used()
            trial(trial_batch(tokens, length))
            points.append((tokens, used()))
        except torch.OutOfMemoryError:
            break
    if len(points) < 2:
        return _TRIALS[0]
    (x, low), (y, high) = points
    slope = max(1.0, (high - low) / (y - x))
    fits = x + int((total * _SHARE - low) / slope)
    return max(1024, min(_MOST_TOKENS, fits // 1024 * 1024))


def trial_batch(tokens: int, length: int) -> Batch:
    """A batch of about that many tokens, in lines of `length`, every position but the first with a loss."""
    ids = np.arange(length, dtype=np.int32) % 7 + 1
    return make_batches([Example(ids, ids)] * max(1, tokens // length), tokens)[0]


def typical_length(examples: Sequence[Example]) -> int:
    """The median length of some examples, at least 8 tokens."""
    return max(8, int(np.median([len(example) for example in examples]))) if examples else 64


def resolve_token_batch_size(
    asked: int | str, device: torch.device, trial: Callable[[Batch], object], length: int
) -> int:
    """The option's value, or what "auto" means on this device (see `find_token_batch_size`)."""
    if isinstance(asked, int):
        return asked
    if device.type != "cuda":
        return CPU_TOKENS

    def used() -> int:
        torch.cuda.synchronize(device)
        most = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return most

    free, _ = torch.cuda.mem_get_info(device)
    return find_token_batch_size(trial, length, used=used, total=free + torch.cuda.memory_reserved(device))


def free_memory(device: torch.device) -> int | None:
    """Bytes that a process may still take on a device; None where that cannot be known."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
