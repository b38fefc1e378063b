"""Self-Filter's difficulties of a run's pool. A copy of the run's model and a score net are trained together."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset
from transformers import TrainingArguments
from transformers.trainer_callback import PrinterCallback
from transformers.utils import logging

from gdig.config.config import Training
from gdig.data.features import Features, read_features
from gdig.data.fingerprint import fingerprint_file, hash_content
from gdig.data.tokens import Example
from gdig.errors import (
    ConfigError,
    DiskError,
    GdigError,
    MemoryShortError,
    NotFiniteError,
    StoreError,
    UnfinishedRunError,
)
from gdig.model.device import resolve_device
from gdig.model.load import load_trainable, loading_bars
from gdig.model.precision import resolve_dtype
from gdig.run.links import remove_folder
from gdig.run.origin import rows_origin
from gdig.run.session import Workspace
from gdig.run.verify import difficulty_damage
from gdig.store.atomic import replacing
from gdig.store.sketches import SketchStore
from gdig.store.tensor_file import MADE_FROM, CheckedFile
from gdig.training.callbacks import SaveInTime, ShowSteps
from gdig.training.rectangle import Rectangle
from gdig.training.score_net import difficulty
from gdig.training.trainer import ScoreNetTrainer, last_saved_state

_WARMUP = 0.03
"""Share of the steps during which the learning rate rises."""


def train_difficulty(work: Workspace, training: Training) -> Path:
    """Train a copy of the run's model and a score net on the rows that the sweep found valid.

    The run directory gets these files:

    - `features/difficulty.npy`: float32 [N], NaN for a row that is not valid.
    - `features/score_net.safetensors`: the net.
    - `score_net/`: saved states, until the training is done. A call with the same options resumes from them.

    Args:
        work: a run whose sweep is finished. These of its options matter: `features` replaces the sketches,
            `loss_reduction` defines a row's loss, `random_seed` sets order and dropout. `precision` "bfloat16" (on
            CUDA also "auto") computes in bfloat16, with weights in float32.
        training: options of the training.

    Returns:
        The path of the file of difficulties.

    Raises:
        GdigError: a subclass, if the sweep or a second row is missing, if the features are not valid, or if the
            training has diverged.
    """
    store, layout = _swept(work), work.layout
    valid = np.concatenate([store.tensor(shard, "valid") for shard in store.shards]).astype(bool)
    rows = np.flatnonzero(valid)
    if len(rows) < 2:
        raise ConfigError(f"score-net: expected at least 2 valid rows to compare, got {len(rows)} in this pool")
    file = work.config.features
    features = Features(read_features(Path(file), valid) if file else store, rows)
    target, folder = layout.difficulty, layout.score_net_training
    net_file = layout.checked(layout.score_net, rows_origin(work.run.record))
    description = _describe(work, training)
    save_model = Path(training.save_model) if training.save_model else None
    if _is_done(work, target, net_file, description) and (save_model is None or save_model.is_dir()):
        work.progress.say(f"score-net: {target} exists already, from a training with the same options")
        return target
    if save_model is not None and save_model.exists():
        raise ConfigError(f"save_model: {save_model} exists already; expected the name of a new directory")
    _prepare(work, description)
    trainer = _trainer(work, training, features, rows, folder)
    with _explained(training):
        saved_state = last_saved_state(folder, work.progress.warn)
        steps = training.epochs * _steps(len(rows), training)
        done = int(saved_state.rpartition("-")[2]) if saved_state else 0
        with (
            loading_bars(False),
            _without_warnings(),
            work.progress.stage("score-net", steps, "steps", done=done) as bar,
        ):
            trainer.add_callback(SaveInTime())
            trainer.add_callback(ShowSteps(bar))
            with _resume_explained(trainer, saved_state, done):
                trainer.train(resume_from_checkpoint=saved_state)
        difficulties = np.full(len(valid), np.nan, np.float32)
        difficulties[rows] = difficulty(trainer.score_net, features)
    if not np.isfinite(difficulties[rows]).all():
        remove_folder(folder)
        raise NotFiniteError(
            f"score-net: the training has diverged: lower learning_rate ({training.learning_rate:g}) "
            f"or score_learning_rate ({training.score_learning_rate:g})"
        )
    if save_model is not None:
        _save_model(trainer.model, work, save_model)
    net_file.remove()  # it is written last and marks the difficulties as those of its training
    with replacing(target) as temporary, temporary.open("wb") as opened:
        np.save(opened, difficulties)
    trainer.score_net.save(
        net_file.path,
        {"training": description, "difficulty": hash_content(target), MADE_FROM: net_file.made_from},
    )
    remove_folder(folder)
    weight = np.exp(difficulties[rows].min() - difficulties[rows].astype(np.float64))
    work.progress.say(
        f"score-net: {steps:,} steps over {len(rows):,} of {len(valid):,} rows; their weights amount to "
        f"{weight.sum() ** 2 / (weight * weight).sum():,.0f} rows of equal weight"
    )
    return target


def _swept(work: Workspace) -> SketchStore:
    """Return the store of the run's sweep, if the sweep is complete."""
    if not work.run.done("sweep"):
        raise UnfinishedRunError(
            f"{work.path}: expected a run whose sweep is finished; run gdig sweep (or gdig select) first"
        )
    store = SketchStore.open(work.layout.sweep, rows_origin(work.run.record))
    n_rows = work.swept_rows
    absent = (f"{store.shard_path(shard)}: is missing" for shard in store.absent(n_rows))
    for what in (*absent, *(damage.what for damage in store.damage(n_rows).values())):
        raise StoreError(f"{what}; gdig sweep makes it again")
    return store


def _describe(work: Workspace, training: Training) -> str:
    """Describe what the result depends on, except for the model and the pool, which the run checks."""
    config = work.config
    options = {k: v for k, v in asdict(training).items() if k not in ("save_model", "save_steps")}
    options.update(loss_reduction=config.loss_reduction, random_seed=config.random_seed)
    options["features"] = fingerprint_file(config.features) if config.features else "sketches"
    return json.dumps(options, sort_keys=True)


def _is_done(work: Workspace, target: Path, net_file: CheckedFile, description: str) -> bool:
    """Whether a training of this description is done, with its difficulties. Files that cannot be used are named."""
    damage = net_file.damage()
    if damage is None and net_file.read()[1].get("training") == description:
        damage = difficulty_damage(net_file, target)
        if damage is None:
            return True
    if damage is not None and damage.state != "missing":
        work.progress.warn(f"{damage.what}; the score net is trained again")
    return False


def _prepare(work: Workspace, description: str) -> None:
    """Make the folder of saved states. A folder of a training with other options is removed."""
    folder, mark = work.layout.score_net_training, work.layout.score_net_options
    if folder.is_dir() and not _holds(mark, description.encode()):
        work.progress.say(f"score-net: {folder} holds a training with other options; the training starts over")
        remove_folder(folder)
    with replacing(mark) as temporary:
        temporary.write_text(description, encoding="utf-8")


def _holds(file: Path, content: bytes) -> bool:
    """Whether a file has this content. It may be of any length, so no more of it is read."""
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return opened.read(len(content) + 1) == content


def _trainer(
    work: Workspace, training: Training, features: Features, rows: NDArray[np.int64], folder: Path
) -> ScoreNetTrainer:
    config = work.config
    device = resolve_device(config.device)
    if device.index:
        raise ConfigError(
            f"device: {config.device} given, but score-net trains on the first visible GPU; "
            f"set CUDA_VISIBLE_DEVICES={device.index}"
        )
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
        save_total_limit=2,  # the older state is complete while the newer is written
        seed=config.random_seed % 2**32,
        bf16=resolve_dtype(config.precision, device) == torch.bfloat16,
        use_cpu=device.type == "cpu",
        dataloader_pin_memory=device.type == "cuda",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    if arguments.device.type == "cuda":
        arguments._n_gpu = 1  # by default Trainer takes all GPUs that it sees, as DataParallel
    trainer = ScoreNetTrainer(
        model=load_trainable(config),
        args=arguments,
        train_dataset=_Pool(work, rows),
        data_collator=Rectangle(work.limits),
        features=features,
        score_learning_rate=training.score_learning_rate,
        loss_reduction=config.loss_reduction,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _steps(rows: int, training: Training) -> int:
    """Number of steps of the optimizer in an epoch."""
    return math.ceil(math.ceil(rows / training.batch_size) / training.accumulate)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence transformers' warnings, such as: a saved state has no head (the head is tied to the embeddings)."""
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
        raise MemoryShortError(
            f"out of memory: {str(error).partition(chr(10))[0]}; lower batch_size ({training.batch_size}) and raise "
            "accumulate, turn on gradient_checkpointing, or train a LoRA adapter"
        ) from error
    except OSError as error:
        raise DiskError(f"score-net: a saved state cannot be written or read: {error}") from error


@contextmanager
def _resume_explained(trainer: ScoreNetTrainer, saved_state: str | None, done: int) -> Iterator[None]:
    """Name the saved state where a training ends before its first step: transformers says nothing of its files."""
    try:
        yield
    except (GdigError, OSError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if saved_state is None or trainer.state.global_step > done:
            raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise StoreError(f"{saved_state}: cannot be resumed from: {reason}; remove this folder") from error


def _save_model(model: Any, work: Workspace, path: Path) -> None:
    """Save the model under a temporary name, then rename it."""
    temporary = path.with_name(f".{path.name}.tmp")
    remove_folder(temporary)
    with loading_bars(False):
        model.save_pretrained(temporary)
    if work.encoder.tokenizer is not None:
        work.encoder.tokenizer.save_pretrained(temporary)
    temporary.rename(path)


@dataclass
class _Pool(Dataset):
    """Valid rows of a pool, as tokens."""

    work: Workspace
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: int) -> Example:
        return self.__getitems__([at])[0]

    def __getitems__(self, at: Sequence[int]) -> list[Example]:
        examples = self.work.encoder.encode(self.work.candidates, self.rows[list(at)])
        for example in examples:
            if not isinstance(example, Example):  # the sweep has read this row
                raise example
        return [example for example in examples if isinstance(example, Example)]
