"""The plain forward and backward pass that the sweep is measured against, on any device.

The model comes from Hugging Face unchanged, and every parameter requires grad. The model computes its own loss. After
each batch the gradients are set to None. The batches are either the examples in file order, 32 at a time, padded to
the longest and with an attention mask; or gdig's rectangles, which need no mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from gdig.data.tokens import IGNORED, Example
from gdig.model.batches import make_batches


@dataclass(frozen=True)
class Padded:
    """A batch as a trainer gives it to the model: int64 [B, L] each; mask None where pads need none."""

    input_ids: torch.Tensor
    labels: torch.Tensor
    attention_mask: torch.Tensor | None


def file_order(examples: Sequence[Example], lines: int = 32, pad: int = 0) -> list[Padded]:
    """The examples as they come, `lines` at a time, padded on the right, with a mask."""
    return [_pad(examples[i : i + lines], pad) for i in range(0, len(examples), lines)]


def rectangles(examples: Sequence[Example], token_batch_size: int, window: int | None = None) -> list[Padded]:
    """gdig's own batches of the examples, sorted by length; no mask."""
    return [
        Padded(torch.from_numpy(batch.input_ids).long(), torch.from_numpy(batch.labels).long(), None)
        for batch in make_batches(examples, token_batch_size, window=window)
    ]


def plain_pass(module: nn.Module, batches: Sequence[Padded]) -> float:
    """Forward and backward over all batches, on the module's device; returns the sum of the batches' losses."""
    device = next(module.parameters()).device
    total = torch.zeros((), device=device)
    for batch in batches:
        mask = None if batch.attention_mask is None else batch.attention_mask.to(device, non_blocking=True)
        ids, labels = batch.input_ids.to(device, non_blocking=True), batch.labels.to(device, non_blocking=True)
        loss = module(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss
        loss.backward()
        total += loss.detach()
        module.zero_grad(set_to_none=True)
    return float(total)  # waits for a device that is still at work


def trainable(module: nn.Module) -> nn.Module:
    """The module with every parameter requiring grad, in training mode."""
    return module.train().requires_grad_(True)


def padding(batches: Sequence[Padded], examples: Sequence[Example]) -> float:
    """Share of the batches' tokens that are pads."""
    return 1 - sum(len(example) for example in examples) / sum(batch.input_ids.numel() for batch in batches)


def _pad(examples: Sequence[Example], pad: int) -> Padded:
    longest = max(len(example) for example in examples)
    ids = torch.full((len(examples), longest), pad)
    labels = torch.full((len(examples), longest), IGNORED)
    mask = torch.zeros(len(examples), longest, dtype=torch.long)
    for line, example in enumerate(examples):
        ids[line, : len(example)] = torch.from_numpy(example.input_ids)
        labels[line, : len(example)] = torch.from_numpy(example.labels)
        mask[line, : len(example)] = 1
    return Padded(ids, labels, mask)
