"""Training runs of seconds: checkpoints as transformers' Trainer leaves them, and what its optimizer truly holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainingArguments

ROWS, STEPS = 16, 4


class Rows(torch.utils.data.Dataset):
    """Random tokens, all with a loss."""

    def __init__(self, vocab_size: int, random_seed: int) -> None:
        g = torch.Generator().manual_seed(random_seed)
        self.ids = torch.randint(2, vocab_size, (ROWS, 10), generator=g)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.ids[row], "labels": self.ids[row]}


def train(module: nn.Module, folder: Path, vocab_size: int, **options: Any) -> Trainer:
    """Train for 4 steps, a checkpoint every second: folder/checkpoint-2 and folder/checkpoint-4."""
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=STEPS, save_steps=2, per_device_train_batch_size=4, logging_steps=1,
        learning_rate=1e-3, report_to=[], use_cpu=True, disable_tqdm=True, weight_decay=0.1, **options,
    )  # fmt: skip
    trainer = Trainer(model=module, args=arguments, train_dataset=Rows(vocab_size, 7))
    trainer.train()
    return trainer


def moments_of(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, dict[str, torch.Tensor]]:
    """By parameter name, what the optimizer itself holds of it."""
    while hasattr(optimizer, "optimizer"):  # accelerate's wrapper
        optimizer = optimizer.optimizer
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return {names[id(parameter)]: state for parameter, state in optimizer.state.items()}
