"""Batches and the device's memory: how large a batch may be, and how a batch that does not fit is halved."""

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

Result = TypeVar("Result")
Key = TypeVar("Key")

CPU_TOKENS = 8192
"""The meaning of token_batch_size="auto" on the CPU."""
_TRIAL_TOKENS = (1024, 4096)
_MOST_TOKENS = 1 << 17  # larger batches are no faster on any GPU that we know
_MEMORY_SHARE = 0.85  # batches of one size differ, and so does the fragmentation of the memory


class BatchRunner(Generic[Key]):
    """Runs batches, and halves a batch that does not fit the memory.

    Args:
        token_batch_size: tokens, pads included, in the largest batch to try. Lowered when a batch does not fit.
        device: the device, for messages.
        progress: for warnings.
        save_memory: called when one example alone does not fit. Returns whether another try is worth its time.
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

    def run(
        self, batches: Sequence[Batch], function: Callable[[Batch, set[Key]], Result]
    ) -> Iterator[tuple[Batch, Result]]:
        """Run `function` on every batch, and yield each batch, or its pieces one after another, with the result.

        Beside a batch, `function` gets a set. It notes there the keys of the sums that it has added the batch to, and
        skips the sums whose keys are noted. So a sum that a batch had reached before the memory ran out is not added
        to twice when the halves of the batch come.

        Raises:
            ModelError: when one example alone does not fit.
        """
        stack: list[tuple[Batch, frozenset[Key]]] = [(batch, frozenset()) for batch in reversed(batches)]
        while stack:
            batch, before = stack.pop()
            added = set(before)
            if batch.input_ids.size <= self.token_batch_size or len(batch.rows) == 1:
                try:
                    result = function(batch, added)
                except torch.OutOfMemoryError:
                    pass  # handled below, where the traceback no longer holds the tensors of the pass
                else:
                    yield batch, result
                    continue
                if self._save_or_lower(batch):
                    stack.append((batch, frozenset(added)))
                    continue
            stack += [(half, frozenset(added)) for half in reversed(batch.halves())]

    def _save_or_lower(self, batch: Batch) -> bool:
        """After `batch` ran out of memory: save memory and return True, or lower the batch size and return False."""
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
                "lower max_length, or choose fewer layers with filter_modules"
            )
        self.token_batch_size = max(1, batch.input_ids.size // 2)
        self._progress.warn(f"out of memory: token_batch_size lowered to {self.token_batch_size}")
        return False


def find_token_batch_size(trial: Callable[[Batch], object], length: int, *, used: Callable[[], int], total: int) -> int:
    """How many tokens a batch may have, from two trials. The memory in use is a linear function of the tokens.

    Args:
        trial: passes one batch; may run out of memory.
        length: tokens of a typical example.
        used: returns the most memory in use since the last call, in bytes.
        total: the device's memory, in bytes.

    Returns:
        Tokens in a multiple of 1,024, at least 1,024 and at most 131,072.
    """
    points = []
    for tokens in _TRIAL_TOKENS:
        try:
            used()
            trial(trial_batch(tokens, length))
            points.append((tokens, used()))
        except torch.OutOfMemoryError:
            break
    if len(points) < 2:
        return _TRIAL_TOKENS[0]
    (x, low), (y, high) = points
    slope = max(1.0, (high - low) / (y - x))
    fits = x + int((total * _MEMORY_SHARE - low) / slope)
    return max(1024, min(_MOST_TOKENS, fits // 1024 * 1024))


def trial_batch(tokens: int, length: int) -> Batch:
    """A batch of about `tokens` tokens, in lines of `length`. Every position but the first has a loss."""
    ids = np.arange(length, dtype=np.int32) % 7 + 1
    return make_batches([Example(ids, ids)] * max(1, tokens // length), tokens)[0]


def typical_length(examples: Sequence[Example]) -> int:
    """The median length of some examples, at least 8 tokens."""
    return max(8, int(np.median([len(example) for example in examples]))) if examples else 64


def resolve_token_batch_size(
    option: int | str, device: torch.device, trial: Callable[[Batch], object], length: int
) -> int:
    """The number of the option token_batch_size; for "auto", what fits the device (see `find_token_batch_size`)."""
    if isinstance(option, int):
        return option
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
    """Bytes that this process can still take on a device; None where the system does not say."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
