"""kronfluence on the CPU, set up for a causal model and the losses of gdig."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch

from benches.libraries.common import need
from benches.sweep_parts.plain_passes import rectangles
from gdig.data.tokens import IGNORED, Example

Batch = dict[str, torch.Tensor]


def analyzer(module: torch.nn.Module, names: Sequence[str], folder: str, reduction: str = "mean") -> Any:
    """An Analyzer over the linear layers `names` of `module`, which it wraps; its files go into `folder`.

    Its task is the loss of each example's target tokens (`reduction` "mean" or "sum"), added up over the batch; its
    attention mask says which positions are no pads, and these enter A and S. Batches are lists of examples by falling
    length.

    Raises:
        AbsentError: when kronfluence cannot be imported.
    """
    need("kronfluence")
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.task import Task
    from kronfluence.utils.dataset import DataLoaderKwargs

    class Language(Task):
        def compute_train_loss(self, batch: Batch, model: torch.nn.Module, sample: bool = False) -> torch.Tensor:
            logits = model(input_ids=batch["input_ids"], use_cache=False).logits[:, :-1].flatten(0, 1)
            labels = batch["labels"][:, 1:]
            is_target = labels != IGNORED
            wanted = is_target.flatten()
            weights = is_target.to(logits.dtype)
            weights = (weights / weights.sum(1, keepdim=True) if reduction == "mean" else weights).flatten()[wanted]
            logits, targets = logits[wanted], labels.flatten()[wanted]
            if sample:
                with torch.no_grad():
                    targets = torch.multinomial(torch.softmax(logits.detach(), -1), 1).flatten()
            nll = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
            return (nll * weights).sum()

        def compute_measurement(self, batch: Batch, model: torch.nn.Module) -> torch.Tensor:
            return self.compute_train_loss(batch, model)

        def get_influence_tracked_modules(self) -> list[str]:
            return list(names)

        def get_attention_mask(self, batch: Batch) -> torch.Tensor:
            return batch["mask"]

    task = Language()
    prepared = prepare_model(module, task)
    ready = Analyzer("bench", prepared, task, cpu=True, log_level=logging.ERROR, disable_tqdm=True, output_dir=folder)
    ready.set_dataloader_kwargs(DataLoaderKwargs(collate_fn=_collate))
    return ready


def _collate(examples: list[Example]) -> Batch:
    (whole,) = rectangles(examples, 1 << 30)
    lengths = torch.tensor(sorted((len(example) for example in examples), reverse=True))
    mask = (torch.arange(whole.input_ids.shape[1]) < lengths[:, None]).long()
    return {"input_ids": whole.input_ids, "labels": whole.labels, "mask": mask}
