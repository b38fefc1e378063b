"""transformers' Trainer with a score net beside the model: any model with logits, any collator."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback

from gdig.data.features import Features
from gdig.errors import ConfigError
from gdig.training.score_net import ScoreNet, weighted_loss

SCORE_NET = "score_net.safetensors"
"""Name of the net's file in a checkpoint. It is written last: a checkpoint that has it is complete."""
_UNITS = "gdig_units"


class ScoreNetTrainer(Trainer):
    """Trains a model and a score net together (Self-Filter, arXiv 2402.12501).

    In each batch the rows are weighed by w = softmax(f(features)), and the loss is the weighted one of `weighted_loss`:
    so f falls for the rows whose loss is above the weighted mean, and the model learns less from them. `difficulty(net,
    features)` tells -f afterwards. The softmax goes over the rows that one device has at once
    (`per_device_train_batch_size`), not over what `gradient_accumulation_steps` or several processes add up: these
    losses are averaged. A batch of one row says nothing about it.

    The model is any whose output has `logits` [B, L, V] for labels [B, L], -100 where there is no loss: a causal model,
    a vision-language model (tokens of an image labelled -100), or one with an encoder and a decoder. The collator is
    the user's; it gets items as the dataset has them (without what the model does not take, if `remove_unused_columns`)
    and makes a mapping with a line for each item, in order. Evaluation weighs all rows the same.

    A checkpoint holds the net in score_net.safetensors, and `train(resume_from_checkpoint=...)` goes on with it.

    Args:
        features: of the rows of `train_dataset`, in its order: [N, F] floats, or `Features`.
        score_learning_rate: of the net, by the schedule of the model's: a step moves a row's f by about so much.
        loss_reduction: a row's loss, "mean" or "sum" over its target tokens (see `weighted_loss`).
        trainer_arguments: of transformers.Trainer.

    Attributes:
        score_net: the net.

    Raises:
        ConfigError: if the features are no such array, of another length or not finite, the batch has one row, or the
            weights are sharded (DeepSpeed, FSDP).
    """

    def __init__(
        self,
        *,
        features: Features | NDArray[Any],
        score_learning_rate: float = 0.01,
        loss_reduction: Literal["mean", "sum"] = "mean",
        **trainer_arguments: Any,
    ) -> None:
        if not isinstance(features, Features):
            if not isinstance(features, np.ndarray) or features.ndim != 2 or features.dtype.kind != "f":
                found = f"{features.dtype} {list(features.shape)}" if hasattr(features, "dtype") else type(features)
                raise ConfigError(f"features: expected an array [rows, any] of floats, got {found}")
            features = Features(features)
        dataset = trainer_arguments.get("train_dataset")
        if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
            raise ConfigError("train_dataset: expected one whose rows have numbers, with a length")
        assert dataset is not None
        if len(dataset) != len(features):
            raise ConfigError(f"features: expected {len(dataset)} rows, as many as train_dataset, got {len(features)}")
        if trainer_arguments.get("optimizers", (None, None))[1] is not None:
            raise ConfigError("optimizers: expected no scheduler, which would not know of the score net")
        net = ScoreNet.of(features)
        super().__init__(**trainer_arguments)
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            raise ConfigError(
                "the score net needs a model whose weights are whole on each device, not DeepSpeed or FSDP"
            )
        if self.args.train_batch_size < 2:
            raise ConfigError("per_device_train_batch_size: expected at least 2 rows, to weigh them against each other")
        self.score_net = net.to(self.args.device)
        self.score_learning_rate = score_learning_rate
        self.loss_reduction = loss_reduction
        # A mean over a micro-batch, which Trainer is to divide by their number; nobody has to count the tokens of all.
        self.model_accepts_loss_kwargs = False
        self.train_dataset = _Numbered(dataset)
        columns = _columns(self.model, self.label_names) if self.args.remove_unused_columns else None
        collate: Any = _Collator(self.data_collator, features, columns)
        self.data_collator = collate
        self.add_callback(_Upkeep(self))

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Make the optimizer, with the net as a group of its own."""
        optimizer = super().create_optimizer(*args, **kwargs)
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        if id(self.score_net.weight) not in held:
            group = {"params": [self.score_net.weight], "lr": self.score_learning_rate, "weight_decay": 0.0}
            optimizer.add_param_group(group)
        return optimizer

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The weighted loss of a batch; of rows without features (in evaluation), all weigh the same."""
        given = dict(inputs)
        units, labels = given.pop(_UNITS, None), given.get("labels")
        if labels is None:
            raise ConfigError(f"the collator gives no labels, only {', '.join(given)}")
        paired = bool(getattr(getattr(self.model, "config", None), "is_encoder_decoder", False))
        if not paired:  # else the decoder's inputs are made from them; here the model's own loss is not needed
            del given["labels"]
        outputs = model(**given)
        logits = outputs["logits"]
        if logits.shape[:2] != labels.shape or (units is not None and len(units) != len(labels)):
            lines = f", for {len(units)} rows" if units is not None else ""
            raise ConfigError(
                f"expected a line of labels for each row, and a label for each position of the logits: got labels "
                f"{list(labels.shape)} and logits {list(logits.shape)}{lines}"
            )
        with torch.autocast(logits.device.type, enabled=False):
            if units is not None:
                scores = self.score_net(units.to(logits.device, self.score_net.weight.dtype))
            else:
                scores = torch.zeros(len(labels), device=logits.device, dtype=self.score_net.weight.dtype)
            loss = weighted_loss(logits, labels.to(logits.device), scores, self.loss_reduction, shift=not paired)
        return (loss, outputs) if return_outputs else loss

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train, or go on from a checkpoint: its folder, or True for the last complete one of `output_dir`.

        Raises:
            ConfigError: if there is none.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_checkpoint(Path(str(self.args.output_dir)))
            if resume_from_checkpoint is None:
                raise ConfigError(f"{self.args.output_dir}: no checkpoint with {SCORE_NET} to go on from")
        if resume_from_checkpoint:
            self.score_net.load(Path(resume_from_checkpoint) / SCORE_NET)
        return super().train(resume_from_checkpoint, *args, **kwargs)


def last_checkpoint(folder: Path) -> str | None:
    """The newest complete checkpoint in a folder, if there is one."""
    found = [file.parent for file in folder.glob(f"checkpoint-*/{SCORE_NET}")]
    numbered = [path for path in found if path.name.removeprefix("checkpoint-").isdecimal()]
    return str(max(numbered, key=lambda path: int(path.name.removeprefix("checkpoint-")))) if numbered else None


class _Upkeep(TrainerCallback):
    """What Trainer does for the model's parameters alone, for the net's."""

    def __init__(self, trainer: ScoreNetTrainer) -> None:
        self._trainer = trainer

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer.score_net.zero_grad()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        gradient = self._trainer.score_net.weight.grad
        if args.world_size > 1 and gradient is not None:
            gradient.copy_(self._trainer.accelerator.reduce(gradient, "mean"))

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.should_save:
            self._trainer.score_net.save(Path(args.output_dir) / f"checkpoint-{state.global_step}" / SCORE_NET)


class _Item(NamedTuple):
    """An item of the dataset with its row number."""

    row: int
    item: Any


@dataclass
class _Numbered(Dataset):
    """A dataset whose items tell their row number."""

    dataset: Any

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> _Item:
        return _Item(row, self.dataset[row])

    def __getitems__(self, rows: Sequence[int]) -> list[_Item]:
        several = getattr(self.dataset, "__getitems__", None)
        items = several(rows) if several is not None else [self.dataset[row] for row in rows]
        return [_Item(row, item) for row, item in zip(rows, items, strict=True)]


@dataclass
class _Collator:
    """The user's collator, with the rows' features put beside what it makes."""

    collate: Callable[[list[Any]], Mapping[str, Any]]
    features: Features
    columns: frozenset[str] | None

    def __call__(self, items: list[Any]) -> Mapping[str, Any]:
        numbered = [item for item in items if isinstance(item, _Item)]
        plain = [item.item if isinstance(item, _Item) else item for item in items]
        if self.columns is not None:
            columns = self.columns
            plain = [{k: v for k, v in x.items() if k in columns} if isinstance(x, Mapping) else x for x in plain]
        made = self.collate(plain)
        if not isinstance(made, Mapping):
            raise ConfigError(f"data_collator: expected one that makes a mapping, got {type(made).__name__}")
        if not numbered:  # rows of an evaluation
            return made
        rows = np.array([item.row for item in numbered], np.int64)
        return {**made, _UNITS: torch.from_numpy(self.features.units(rows))}


def _columns(model: Any, labels: Sequence[str]) -> frozenset[str]:
    """What `remove_unused_columns` keeps: the arguments of the model's forward pass."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return frozenset({*inspect.signature(inner.forward).parameters, "label", "label_ids", *labels})
