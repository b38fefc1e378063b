"""A score net's trainer with few steps, and how well difficulties tell noisy rows from others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainingArguments
from transformers.trainer_callback import PrinterCallback

from gdig.training import ScoreNetTrainer


def padded(items: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    def column(name: str, fill: int) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence([x[name] for x in items], batch_first=True, padding_value=fill)

    return {"input_ids": column("input_ids", 0), "labels": column("labels", -100)}


def trainer(
    folder: Path,
    model: Any,
    rows: Any,
    features: Any,
    *,
    collator: Any = padded,
    score_lr=0.01,
    reduction="mean",
    **args,
) -> ScoreNetTrainer:
    options = {
        "use_cpu": True, "report_to": [], "disable_tqdm": True, "logging_strategy": "no", "save_strategy": "no",
        "per_device_train_batch_size": 4, "num_train_epochs": 1, "learning_rate": 1e-3, **args,
    }  # fmt: skip
    made = ScoreNetTrainer(
        model=model,
        args=TrainingArguments(str(folder), **options),
        train_dataset=rows,
        data_collator=collator,
        features=features,
        score_learning_rate=score_lr,
        loss_reduction=reduction,
    )
    made.remove_callback(PrinterCallback)
    return made


def auroc(difficulties: np.ndarray, noisy: np.ndarray) -> float:
    return float((difficulties[noisy][:, None] > difficulties[~noisy]).mean())
