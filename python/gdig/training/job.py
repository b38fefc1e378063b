"""Self-Filter's difficulty of a run's pool: its model and a score net trained together on the rows that were swept."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from transformers.utils import logging

from gdig.config.config import Training
from gdig.data.features import Features, read_features
from gdig.data.fingerprint import fingerprint_file
from gdig.data.tokens import Example
from gdig.errors import ConfigError, ModelError, RunError, StoreError
from gdig.model.batches import make_batches
from gdig.model.device import resolve_device
from gdig.model.load import load_trainable, loading_bars
from gdig.model.precision import resolve_dtype
from gdig.progress import Bar
from gdig.run.session import Workspace
from gdig.store.atomic import replacing
from gdig.store.sketches import SketchStore
from gdig.store.tensor_file import read_tensors
from gdig.training.score_net import difficulty
from gdig.training.trainer import ScoreNetTrainer, last_checkpoint

_WARMUP = 0.03
"""Share of the steps in which the learning rate rises."""


def train_difficulty(work: Workspace, training: Training) -> Path:
    """Train a copy of the run's model and a score net on the rows that the sweep found valid.

    Leaves `features/difficulty.npy` in the run directory, float32 [N], NaN for a row that is not valid, and the net in
    `features/score_net.safetensors`; checkpoints in `score_net/` until it is done. What another call with the same
    options has left is gone on from.

    Args:
        work: of a run whose sweep is finished. Of its options, `features` replaces the sketches, `loss_reduction` says
            what a row's loss is, `seed` gives order and dropout; `precision` "bfloat16" (on CUDA also "auto") computes
            in bfloat16, with weights in float32.
        training: how.

    Returns:
        The file of difficulties.

    Raises:
        GdigError: a subclass that says what is missing (the sweep, a second row), wrong with the features,
            or that the training has diverged.
    """
    store, layout = _swept(work), work.layout
    valid = np.concatenate([store.tensor(shard, "valid") for shard in store.shards]).astype(bool)
    rows = np.flatnonzero(valid)
    if len(rows) < 2:
        raise ConfigError(f"score-net weighs rows against each other; of this pool {len(rows)} are valid")
    file = work.config.features
    features = Features(read_features(Path(file), valid) if file else store, rows)
    target, net_file, folder = layout.difficulty, layout.score_net, layout.score_net_training
    asked = _describe(work, training)
    keep = Path(training.save_model) if training.save_model else None
    if _done(target, net_file, asked) and (keep is None or keep.is_dir()):
        work.progress.say(f"score-net: {target} is there, of a training with these options")
        return target
    if keep is not None and keep.exists():
        raise ConfigError(f"save_model: {keep} is there already; expected the name of a new directory")
    _prepare(work, asked)
    trainer = _trainer(work, training, features, rows, folder)
    with _explained(training):
        checkpoint = last_checkpoint(folder)
        steps = training.epochs * _steps(len(rows), training)
        done = int(checkpoint.rpartition("-")[2]) if checkpoint else 0
        with loading_bars(False), _hushed(), work.progress.stage("score-net", steps, "steps", done=done) as bar:
            trainer.add_callback(_Shown(bar))
            trainer.train(resume_from_checkpoint=checkpoint)
        found = np.full(len(valid), np.nan, np.float32)
        found[rows] = difficulty(trainer.score_net, features)
    if not np.isfinite(found[rows]).all():
        shutil.rmtree(folder)
        raise ModelError(
            f"score-net: the training has diverged: lower learning_rate ({training.learning_rate:g}) "
            f"or score_learning_rate ({training.score_learning_rate:g})"
        )
    if keep is not None:
        _keep(trainer.model, work, keep)
    net_file.unlink(missing_ok=True)  # the last to be written, it says that the difficulties are those of its training
    with replacing(target) as temporary, temporary.open("wb") as opened:
        np.save(opened, found)
    trainer.score_net.save(net_file, {"training": asked})
    shutil.rmtree(folder)
    weight = np.exp(found[rows].min() - found[rows].astype(np.float64))
    work.progress.say(
        f"score-net: {steps:,} steps over {len(rows):,} of {len(valid):,} rows; they weigh as "
        f"{weight.sum() ** 2 / (weight * weight).sum():,.0f} rows of one weight do"
    )
    return target


def _swept(work: Workspace) -> SketchStore:
    """The run's sweep, if it is whole."""
    if not work.run.done("sweep"):
        raise RunError(f"{work.path}: expected a run whose sweep is finished; run gdig sweep (or gdig select) first")
    store = SketchStore.open(work.layout.sweep)
    if lost := store.missing(len(work.candidates)):
        raise StoreError(f"{store.shard_path(lost[0])}: is gone or cut short; gdig sweep makes it again")
    return store


def _describe(work: Workspace, training: Training) -> str:
    """What the result depends on, but for the model and the pool, which the run itself watches."""
    config = work.config
    given = {k: v for k, v in asdict(training).items() if k not in ("save_model", "save_steps")}
    given.update(loss_reduction=config.loss_reduction, seed=config.seed)
    given["features"] = fingerprint_file(config.features) if config.features else "sketches"
    return json.dumps(given, sort_keys=True)


def _done(target: Path, net_file: Path, asked: str) -> bool:
    """Whether the difficulties of such a training are there."""
    return target.is_file() and net_file.is_file() and read_tensors(net_file)[1].get("training") == asked


def _prepare(work: Workspace, asked: str) -> None:
    """Make the folder of checkpoints; one of a training with other options is removed."""
    folder, mark = work.layout.score_net_training, work.layout.score_net_options
    if folder.is_dir() and not (mark.is_file() and mark.read_text(encoding="utf-8") == asked):
        work.progress.say(f"score-net: {folder} holds a training with other options, which is started over")
        shutil.rmtree(folder)
    with replacing(mark) as temporary:
        temporary.write_text(asked, encoding="utf-8")


def _trainer(
    work: Workspace, training: Training, features: Features, rows: NDArray[np.int64], folder: Path
) -> ScoreNetTrainer:
    config = work.config
    device = resolve_device(config.device)
    if device.index:
        raise ConfigError(f"device: score-net trains on the first GPU seen; set CUDA_VISIBLE_DEVICES={device.index}")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    steps = training.epochs * _steps(len(rows), training)
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=training.epochs,
        per_device_train_batch_size=training.batch_size,
        gradient_accumulation_steps=training.accumulate,
        learning_rate=training.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(_WARMUP * steps),
        save_strategy="steps",
        save_steps=training.save_steps,
        save_total_limit=2,  # the older is complete while the newer is written
        seed=config.seed % 2**32,
        bf16=resolve_dtype(config.precision, device) == torch.bfloat16,
        use_cpu=device.type == "cpu",
        dataloader_pin_memory=device.type == "cuda",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    if arguments.device.type == "cuda":
        arguments._n_gpu = 1  # else Trainer takes all it sees, as DataParallel
    trainer = ScoreNetTrainer(
        model=load_trainable(config),
        args=arguments,
        train_dataset=_Pool(work, rows),
        data_collator=_Rectangle(work.limits.window),
        features=features,
        score_learning_rate=training.score_learning_rate,
        loss_reduction=config.loss_reduction,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _steps(rows: int, training: Training) -> int:
    """Steps of the optimizer in an epoch."""
    return math.ceil(math.ceil(rows / training.batch_size) / training.accumulate)


@contextmanager
def _hushed() -> Iterator[None]:
    """Keep transformers' warnings back, such as that a checkpoint lacks the head that is tied to the embeddings."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


@contextmanager
def _explained(training: Training) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"out of memory: {str(error).partition(chr(10))[0]}; lower batch_size ({training.batch_size}) and raise "
            "accumulate, turn on gradient_checkpointing, or train a LoRA adapter"
        ) from error
    except OSError as error:
        raise RunError(f"score-net: a checkpoint cannot be written or read: {error}") from error


def _keep(model: Any, work: Workspace, path: Path) -> None:
    """Save the model under a temporary name, then under its own."""
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    with loading_bars(False):
        model.save_pretrained(temporary)
    if work.encoder.tokenizer is not None:
        work.encoder.tokenizer.save_pretrained(temporary)
    temporary.rename(path)


@dataclass
class _Pool(Dataset):
    """The rows of a pool that count, as tokens."""

    work: Workspace
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: int) -> Example:
        return self.__getitems__([at])[0]

    def __getitems__(self, at: Sequence[int]) -> list[Example]:
        found = self.work.encoder.encode(self.work.candidates, self.rows[list(at)])
        for example in found:
            if not isinstance(example, Example):  # the sweep could read it
                raise example
        return [example for example in found if isinstance(example, Example)]


@dataclass
class _Rectangle:
    """Puts examples into one rectangle, as the sweep does, in the order given."""

    window: int | None

    def __call__(self, examples: list[Example]) -> dict[str, torch.Tensor]:
        whole = len(examples) * 2 * max(map(len, examples)) + 64 * len(examples)
        (batch,) = make_batches(examples, whole, window=self.window)
        order = np.argsort(batch.rows)
        return {
            "input_ids": torch.from_numpy(batch.input_ids[order].astype(np.int64)),
            "labels": torch.from_numpy(batch.labels[order].astype(np.int64)),
        }


class _Shown(TrainerCallback):
    """Shows each step."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._bar.advance(1)
