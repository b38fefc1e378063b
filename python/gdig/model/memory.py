"""Batches that do not fit the device's memory: cut in half, and never tried at that size again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

import torch

from gdig.errors import ModelError
from gdig.model.batches import Batch
from gdig.progress import Progress

T = TypeVar("T")
Part = TypeVar("Part")


class Fitting(Generic[Part]):
    """Runs batches, in halves where the whole does not fit.

    Args:
        token_batch_size: tokens, pads included, in the largest batch to try; lowered when one does not fit.
        device: whose memory it is, for what is said.
        progress: where to say it.
    """

    def __init__(self, token_batch_size: int, device: torch.device, progress: Progress) -> None:
        self.token_batch_size = token_batch_size
        self._device = device
        self._progress = progress

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
                self._learn(batch)
            todo += [(half, frozenset(noted)) for half in reversed(batch.halves())]

    def _learn(self, batch: Batch) -> None:
        """Remember that this many tokens do not fit."""
        lines, length = batch.shape
        if lines == 1:
            raise ModelError(
                f"one example of {length} tokens does not fit the memory of {self._device}; "
                "lower max_length or choose fewer layers with filter_modules"
            )
        self.token_batch_size = max(1, batch.input_ids.size // 2)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        self._progress.warn(f"out of memory: token_batch_size lowered to {self.token_batch_size}")
