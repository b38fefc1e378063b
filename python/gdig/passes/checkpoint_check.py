"""The check of the training checkpoints before any pass: what their directories tell without the weights."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from gdig.errors import GdigError, ModelError
from gdig.model.directory import has_safetensors, model_directory, read_limits
from gdig.model.load import empty_module
from gdig.model.optimizer import FILES, check_adam
from gdig.passes.training_checkpoints import learning_rate, no_directory, other_vocabulary, remember_swept
from gdig.run.record import CheckpointRecord, RunRecord
from gdig.run.session import Workspace


def check_checkpoints(work: Workspace, record: RunRecord) -> list[float]:
    """Check the directories of the option `checkpoints`, and return the learning rate of each.

    Without the option, the rates are those of the checkpoints that the run has swept last.

    Args:
        work: the options, and the vocabulary of the rows.
        record: of the run, which may have swept a checkpoint that is gone.

    Raises:
        ConfigError: when there is no such directory.
        ModelError: when it holds no model or no optimizer's state, or those of another model.
    """
    sweep = record.stages.sweep
    swept = [] if sweep is None else [each for each in sweep.checkpoints.values() if each.state == "done"]
    if not work.config.checkpoints:
        return [] if sweep is None else _rates_of_run(work, record)
    return [_check(work, path, swept) for path in work.config.checkpoints]


def check_checkpoints_of_run(work: Workspace) -> list[float]:
    """Check the checkpoints of an open run. One that cannot be swept is no option of later starts.

    Raises: as `check_checkpoints`.
    """
    try:
        return check_checkpoints(work, work.run.record)
    except GdigError:
        remember_swept(work)
        raise


def _rates_of_run(work: Workspace, record: RunRecord) -> list[float]:
    """The rates of the checkpoints whose sweep has all rows of this start."""
    sweep = record.stages.sweep
    if sweep is None or (sweep.rows or 0) < len(work.candidates):
        return []
    asked = [sweep.checkpoints[key] for key in sweep.checkpoint_order]
    return [each.learning_rate for each in asked if each.state == "done"]


def _check(work: Workspace, name: str, swept: list[CheckpointRecord]) -> float:
    path, config = Path(name), work.config
    if not path.is_dir():
        for each in swept:  # a training run deletes its first checkpoints
            if each.path == name:
                return each.learning_rate
        raise no_directory(path)
    options = config.with_options(model=name, torch_compile=False)
    base = model_directory(options)
    has_safetensors(base)
    for file in sorted(base.glob("*.safetensors")):
        if file.name not in FILES:
            _check_header(path, file)
    if (base / "config.json").is_file():  # accelerate saves weights and states alone
        limits, own = work.limits, read_limits(options)
        if own.vocab_size and limits.vocab_size and own.vocab_size < limits.vocab_size:
            raise other_vocabulary(name, own.vocab_size, limits.vocab_size)
    return learning_rate(path, check_adam(path, empty_module(options, config.model)))


def _check_header(path: Path, file: Path) -> None:
    try:
        with safe_open(file, "pt") as tensors:
            tensors.keys()
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: cannot be loaded as a causal language model: {file.name}: {error}") from None
