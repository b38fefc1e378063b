"""Batches and the device's memory: how a batch that does not fit is halved."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

import numpy as np
import torch

from gdig.data.tokens import Example
from gdig.errors import MemoryShortError
from gdig.model.batches import Batch, make_batches
from gdig.model.freed_memory import FreedMemory
from gdig.progress import Progress

Result = TypeVar("Result")
Key = TypeVar("Key")


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
        self._freed = FreedMemory()

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
            if self._device.type == "cpu":  # here no tensor of the last batch is left
                self._freed.hand_back()
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
            raise MemoryShortError(
                f"one example of {length} tokens does not fit the memory of {self._device}; "
                "lower max_length, or choose fewer layers with filter_modules"
            )
        self.token_batch_size = max(1, batch.input_ids.size // 2)
        self._progress.warn(f"out of memory: token_batch_size lowered to {self.token_batch_size}")
        return False


def trial_batch(tokens: int, length: int) -> Batch:
    """A batch of about `tokens` tokens, in lines of `length`. Every position but the first has a loss."""
    ids = np.arange(length, dtype=np.int32) % 7 + 1
    return make_batches([Example(ids, ids)] * max(1, tokens // length), tokens)[0]
