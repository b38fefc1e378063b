"""The size of a batch that fits: token_batch_size="auto", from what a pass holds and what is free."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from gdig.data.tokens import Example
from gdig.model.batch_runner import trial_batch
from gdig.model.batches import Batch
from gdig.model.causal_model import Model
from gdig.model.free_memory import free_memory
from gdig.model.freed_memory import FreedMemory
from gdig.model.token_memory import TokenMemory

MEMORY_SHARE = 0.6
"""Share of the free memory that a plan may take. The rest is for what batches differ by, what the allocator wastes, and
what other programs take meanwhile."""
CPU_TOKENS = 512
"""Largest batch on the CPU: a larger batch is no faster there (LOG.md), and its memory grows."""
CPU_TOKENS_WITH_W = 1024
"""The same where a batch is scored by the seeds' dense gradients W: it reads all of W, whatever its size. The number
follows from the cost of reading W (LOG.md); sweeps with batches of both sizes were not compared."""
_TRIAL_TOKENS = 2048
DEVICE_TOKENS = 1 << 17
"""Largest batch on another device; no GPU that we know gains beyond."""
LEAST_TOKENS = 256
"""Smallest batch that "auto" takes; below, products are thin and slow."""


def room(model: Model, share: float = 1.0) -> int | None:
    """Return the bytes that a plan may take on the devices of a loaded model, beside all that they hold now.

    Args:
        model: the model.
        share: this process' share, where several processes use one memory.

    Returns:
        The bytes; None where the system does not say what is free.
    """
    devices = {layer.device for layer in model.layers} | {model.device}
    if any(device.type == "cpu" for device in devices):
        FreedMemory().hand_back()  # what an earlier pass has freed is not taken
    free = [free_memory(device) for device in devices]
    sizes = [size for size in free if size is not None]
    return int(sum(sizes) * share * MEMORY_SHARE) if sizes else None


def most_tokens(device: torch.device, cpu_tokens: int = CPU_TOKENS) -> int:
    """The largest batch that "auto" takes on a device. `cpu_tokens`: on a CPU."""
    return cpu_tokens if device.type == "cpu" else DEVICE_TOKENS


def largest_batch(
    memory: TokenMemory, size: int | None, device: torch.device, lowest_layer: int = 0, cpu_tokens: int = CPU_TOKENS
) -> int:
    """How many tokens a batch gets within `size` bytes: a multiple of 256, from `LEAST_TOKENS` to `most_tokens`."""
    most = most_tokens(device, cpu_tokens)
    if size is None:
        return most
    fits = memory.tokens_within(size, lowest_layer) // LEAST_TOKENS * LEAST_TOKENS
    return min(most, max(LEAST_TOKENS, fits))


def resolve_token_batch_size(
    option: int | str,
    model: Model,
    trial: Callable[[Batch], object],
    length: int,
    *,
    limit: int | None = None,
    cpu_tokens: int = CPU_TOKENS,
) -> int:
    """The number of the option token_batch_size; for "auto", what fits.

    Args:
        option: the option.
        model: the model.
        trial: passes one batch. On CUDA one small batch is passed: what it takes replaces the plan where it is more.
        length: tokens of a typical example.
        limit: bytes for a batch. None: what a plan may take beside all that the device holds now.
        cpu_tokens: the largest batch on a CPU.
    """
    if isinstance(option, int):
        return option
    memory, limit = TokenMemory.count(model), room(model) if limit is None else limit
    planned = largest_batch(memory, limit, model.device, cpu_tokens=cpu_tokens)
    return checked_batch(planned, memory, limit, model.device, trial, length)


def checked_batch(
    planned: int,
    memory: TokenMemory,
    limit: int | None,
    device: torch.device,
    trial: Callable[[Batch], object],
    length: int,
) -> int:
    """Check a planned batch by a small trial on CUDA: where the trial takes more a token, the batch gets smaller."""
    if device.type != "cuda" or limit is None or planned <= LEAST_TOKENS:
        return planned
    batch = trial_batch(min(planned, _TRIAL_TOKENS), length)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    try:
        trial(batch)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return LEAST_TOKENS
    torch.cuda.synchronize(device)
    return scaled_batch(planned, memory, limit, batch.input_ids.size, torch.cuda.max_memory_allocated(device) - before)


def scaled_batch(planned: int, memory: TokenMemory, limit: int, tokens: int, taken: int) -> int:
    """The planned batch, or a smaller one when `taken` bytes for a trial of `tokens` tokens are more than planned."""
    if taken <= memory.of_batch(tokens):
        return planned
    a_token = -(-(taken - memory.head) // tokens) if taken > memory.head else -(-taken // tokens)
    fits = max(0, limit - memory.head) // a_token // LEAST_TOKENS * LEAST_TOKENS
    return min(planned, max(LEAST_TOKENS, fits))


def typical_length(examples: Sequence[Example]) -> int:
    """The median length of some examples, at least 8 tokens."""
    return max(8, int(np.median([len(example) for example in examples]))) if examples else 64
