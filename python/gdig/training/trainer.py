"""transformers' Trainer with a score net beside the model. The model needs logits; the collator may be any.

This module calls a folder `checkpoint-STEP` of Trainer a saved state: a training resumes from a saved state.
"""

from __future__ import annotations

import inspect
import json
import re
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
from gdig.errors import ConfigError, StoreError
from gdig.store.checksum import content_checksum
from gdig.store.tensor_file import read_tensors
from gdig.training.score_net import ScoreNet, weighted_loss

SCORE_NET = "score_net.safetensors"
"""Name of the net's file in a saved state. The file is written last: a saved state that has the file is complete."""
_SUMS = "sums"
"""Metadata of the net's file in a saved state: the checksum of each other file."""
_UNITS = "gdig_units"


class ScoreNetTrainer(Trainer):
    """Trains a model and a score net together (Self-Filter, arXiv 2402.12501).

    In each batch the rows are weighted by w = softmax(f(features)), and the loss is that of `weighted_loss`. So f falls
    for the rows whose loss is above the weighted mean, and the model learns less from these rows. After the training,
    `difficulty(net, features)` returns -f.

    The softmax goes over the rows that one device has at once (`per_device_train_batch_size`). The losses of several
    steps (`gradient_accumulation_steps`) or processes are averaged. A batch of one row teaches the net nothing.

    The output of the model has `logits` [B, L, V] for labels [B, L], -100 where there is no loss. It may be a causal
    model, a vision-language model (tokens of an image labelled -100), or a model with an encoder and a decoder.

    The collator gets the items of the dataset. With `remove_unused_columns`, it gets only the fields that the model
    takes. The collator returns a mapping whose tensors have one line for each item, in order. In evaluation all rows
    have equal weight.

    A saved state holds the net in score_net.safetensors. `train(resume_from_checkpoint=...)` resumes with that net.

    Args:
        features: of the rows of `train_dataset`, in its order: [N, F] floats, or `Features`.
        score_learning_rate: learning rate of the net, by the schedule of the model. A step changes a row's f by about
            this number.
        loss_reduction: "mean" or "sum" over the target tokens of a row (see `weighted_loss`).
        trainer_arguments: arguments of transformers.Trainer.

    Attributes:
        score_net: the net.

    Raises:
        ConfigError: if the features are of another kind or length, or not finite. Also if the batch has one row, or if
            the weights are sharded (DeepSpeed, FSDP).
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
                given = f"{features.dtype} {list(features.shape)}" if hasattr(features, "dtype") else type(features)
                raise ConfigError(f"features: expected an array [rows, any] of floats, got {given}")
            features = Features(features)
        dataset = trainer_arguments.get("train_dataset")
        if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
            raise ConfigError(
                f"train_dataset: expected a dataset with a length and rows by number, got {type(dataset).__name__}"
            )
        assert dataset is not None
        if len(dataset) != len(features):
            raise ConfigError(f"features: expected {len(dataset)} rows, as many as train_dataset, got {len(features)}")
        if trainer_arguments.get("optimizers", (None, None))[1] is not None:
            raise ConfigError(
                "optimizers: expected no scheduler, because a given scheduler does not schedule the score net"
            )
        net = ScoreNet.of(features)
        super().__init__(**trainer_arguments)
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            raise ConfigError(
                "DeepSpeed or FSDP is on, but the score net needs a model whose weights are whole on each device; "
                "turn it off"
            )
        if self.args.train_batch_size < 2:
            raise ConfigError(
                f"per_device_train_batch_size: expected at least 2 rows to compare, got {self.args.train_batch_size}"
            )
        self.score_net = net.to(self.args.device)
        self.score_learning_rate = score_learning_rate
        self.loss_reduction = loss_reduction
        # The loss is a mean over a micro-batch. Trainer then divides it by the number of micro-batches.
        self.model_accepts_loss_kwargs = False
        self.train_dataset = _Numbered(dataset)
        columns = _columns(self.model, self.label_names) if self.args.remove_unused_columns else None
        collate: Any = _Collator(self.data_collator, features, columns)
        self.data_collator = collate
        self.add_callback(_Upkeep(self))

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Make the optimizer, with the net as a separate group."""
        optimizer = super().create_optimizer(*args, **kwargs)
        optimized = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        if id(self.score_net.weight) not in optimized:
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
        """Return the weighted loss of a batch. Rows without features (in evaluation) have equal weight."""
        model_inputs = dict(inputs)
        units, labels = model_inputs.pop(_UNITS, None), model_inputs.get("labels")
        if labels is None:
            raise ConfigError(f"data_collator: expected labels, got only {', '.join(model_inputs)}")
        has_encoder = bool(getattr(getattr(self.model, "config", None), "is_encoder_decoder", False))
        # The model's own loss is not needed. A model with an encoder makes the decoder's inputs from the labels.
        if not has_encoder:
            del model_inputs["labels"]
        outputs = model(**model_inputs)
        logits = outputs["logits"]
        if logits.shape[:2] != labels.shape or (units is not None and len(units) != len(labels)):
            rows = f", for {len(units)} rows" if units is not None else ""
            raise ConfigError(
                f"data_collator: expected a line of labels for each row and a label for each position of the logits, "
                f"got labels {list(labels.shape)} and logits {list(logits.shape)}{rows}"
            )
        with torch.autocast(logits.device.type, enabled=False):
            if units is not None:
                scores = self.score_net(units.to(logits.device, self.score_net.weight.dtype))
            else:
                scores = torch.zeros(len(labels), device=logits.device, dtype=self.score_net.weight.dtype)
            loss = weighted_loss(logits, labels.to(logits.device), scores, self.loss_reduction, shift=not has_encoder)
        return (loss, outputs) if return_outputs else loss

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train, or resume from a saved state: its folder, or True for the newest complete one of `output_dir`.

        Raises:
            ConfigError: if True is given and `output_dir` has no sound saved state.
            StoreError: if a file of the folder is not as it was saved.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_saved_state(Path(str(self.args.output_dir)))
            if resume_from_checkpoint is None:
                raise ConfigError(
                    f"{self.args.output_dir}: holds no saved state to resume from, expected checkpoint-STEP/{SCORE_NET}"
                )
        if resume_from_checkpoint:
            if (damage := _damage(Path(resume_from_checkpoint))) is not None:
                raise StoreError(damage)
            self.score_net.load(Path(resume_from_checkpoint) / SCORE_NET)
        return super().train(resume_from_checkpoint, *args, **kwargs)


def last_saved_state(folder: Path, warn: Callable[[str], object] = lambda text: None) -> str | None:
    """Return the newest saved state in a folder that is complete, and as it was saved. None if there is none.

    Args:
        folder: the folder of the saved states.
        warn: gets a text for each complete saved state that is damaged.
    """
    complete = [file.parent for file in folder.glob(f"checkpoint-*/{SCORE_NET}")]
    numbered = [path for path in complete if re.fullmatch(r"checkpoint-[0-9]{1,18}", path.name)]
    for path in sorted(numbered, key=lambda path: int(path.name.removeprefix("checkpoint-")), reverse=True):
        if (damage := _damage(path)) is None:
            return str(path)
        warn(f"{damage}; this saved state is passed over")
    return None


def _damage(state: Path) -> str | None:
    """Return what is wrong with a saved state, by the checksums in the net's file; None for a sound one."""
    try:
        sums = json.loads(read_tensors(state / SCORE_NET)[1][_SUMS])
        for name, expected in sums.items():
            if (computed := content_checksum(state / Path(name).name)) != expected:
                return f"{state / name}: checksum: expected {expected}, got {computed}"
    except (AttributeError, ValueError, RecursionError) as error:
        return f"{state / SCORE_NET}: {_SUMS}: expected an object of checksums: {error}"
    except StoreError as error:
        return str(error)
    return None


class _Upkeep(TrainerCallback):
    """Does for the net what Trainer does only for the parameters of the model."""

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
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != SCORE_NET)
            sums = {path.name: content_checksum(path) for path in files}
            self._trainer.score_net.save(folder / SCORE_NET, {_SUMS: json.dumps(sums)})


class _Item(NamedTuple):
    """An item of the dataset with its row number."""

    row: int
    item: Any


@dataclass
class _Numbered(Dataset):
    """A dataset whose items hold their row number."""

    dataset: Any

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> _Item:
        return _Item(row, self.dataset[row])

    def __getitems__(self, rows: Sequence[int]) -> list[_Item]:
        get_items = getattr(self.dataset, "__getitems__", None)
        items = get_items(rows) if get_items is not None else [self.dataset[row] for row in rows]
        return [_Item(row, item) for row, item in zip(rows, items, strict=True)]


@dataclass
class _Collator:
    """The user's collator. Its mapping also gets the features of the rows."""

    collate: Callable[[list[Any]], Mapping[str, Any]]
    features: Features
    columns: frozenset[str] | None

    def __call__(self, items: list[Any]) -> Mapping[str, Any]:
        numbered = [item for item in items if isinstance(item, _Item)]
        plain = [item.item if isinstance(item, _Item) else item for item in items]
        if self.columns is not None:
            columns = self.columns
            plain = [{k: v for k, v in x.items() if k in columns} if isinstance(x, Mapping) else x for x in plain]
        inputs = self.collate(plain)
        if not isinstance(inputs, Mapping):
            raise ConfigError(f"data_collator: expected one that returns a mapping, got {type(inputs).__name__}")
        if not numbered:  # the rows are of an evaluation
            return inputs
        rows = np.array([item.row for item in numbered], np.int64)
        return {**inputs, _UNITS: torch.from_numpy(self.features.units(rows))}


def _columns(model: Any, labels: Sequence[str]) -> frozenset[str]:
    """Return the fields that `remove_unused_columns` keeps: the arguments of the model's forward pass."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return frozenset({*inspect.signature(inner.forward).parameters, "label", "label_ids", *labels})
