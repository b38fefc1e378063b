"""Checkpoints of a training run, swept for LESS: each has its own shards, which other options do not touch."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from gdig.data.fingerprint import fingerprint_file, fingerprint_paths
from gdig.errors import ConfigError, GdigError, ModelError
from gdig.model.load import load_model
from gdig.model.optimizer import FILES, read_adam
from gdig.passes.adam_pass import AdamFeatures, trained_layers
from gdig.passes.row_pass import RowPass
from gdig.passes.shards import in_part, open_or_create, write_missing
from gdig.run.record import CheckpointRecord
from gdig.run.session import Workspace
from gdig.store.sketches import SketchStore
from gdig.store.tensor_file import write_tensors


def checkpoints_stage(work: Workspace) -> bool:
    """Sweep the checkpoints of `config.checkpoints` that have not been; those that have been are kept, whether they are
    asked for now or not. Returns whether all shards of all are there."""
    config, run, n = work.config, work.run, len(work.candidates)
    try:
        keys = [checkpoint_key(work, path) for path in config.checkpoints]
    except GdigError:
        _remember_swept(work)
        raise
    complete = True
    for number, (path, key) in enumerate(zip(config.checkpoints, keys, strict=True), 1):
        record = run.sweep.checkpoints.get(key)
        store = open_or_create(work.layout.checkpoint(key).shards, work)
        missing = [shard for shard in store.missing(n) if in_part(shard, config.sweep_part)]
        if missing:
            title = f"checkpoint {number} of {len(keys)}"
            facts = asdict(record) if record else None
            arguments: dict[str, Any] = {"key": key, "path": path, "missing": missing, "title": title, "facts": facts}
            work.ranks.task("checkpoint", **arguments)
            try:
                record = checkpoint_shards(work, **arguments)
            except GdigError:
                if not store.n_shards:  # it cannot be swept: the run does not go on asking for it
                    shutil.rmtree(work.layout.checkpoint(key).path)
                    _remember_swept(work)
                raise
        done = not store.missing(n)
        assert record is not None  # no shard is there without it
        _record(work, key, replace(record, state="done" if done else "running"))
        complete &= done
    run.update("sweep", checkpoint_order=tuple(keys))
    return complete


def checkpoint_shards(
    work: Workspace, key: str, path: str, missing: list[int], title: str, facts: dict[str, Any] | None
) -> CheckpointRecord:
    """Write shards of a checkpoint: every rank is here with the same arguments.

    Args:
        work: this rank's.
        key: names the checkpoint's folder.
        path: the checkpoint.
        missing: shards to write.
        title: what the bar is called.
        facts: fields of the CheckpointRecord of an earlier start; None to have rank 0 find them.

    Returns:
        The record of the checkpoint.
    """
    ranks, config = work.ranks, work.config
    work.forget_model()
    options = config.with_options(model=path, device=ranks.device(config.device), torch_compile=False)
    model = load_model(options, architecture=config.model)
    if work.limits.vocab_size and model.vocab_size < work.limits.vocab_size:
        raise ModelError(
            f"{path}: has a vocabulary of {model.vocab_size} tokens, the rows are encoded for one of "
            f"{work.limits.vocab_size}; a checkpoint has to be of the same model"
        )
    adam = read_adam(Path(path), model.module)
    model, moments = trained_layers(model, adam)
    features = AdamFeatures(model, moments, work.seed_examples, config)
    rows = RowPass(model, features, config, work.progress, features.scale)
    if facts is None:
        if ranks.main:
            record = CheckpointRecord(
                path=path,
                learning_rate=learning_rate(Path(path), adam.learning_rate),
                step=moments[0].step,
                layers=len(moments),
                token_batch_size=rows.find_batch_size(work.sample("probe", config.probe_rows)[0]),
            )
            _record(work, key, record)
            facts = asdict(record)
        facts = ranks.gather(facts)[0]
    record = CheckpointRecord(**facts)
    paths = work.layout.checkpoint(key)
    if ranks.main and not (file := paths.seed_sketches).exists():  # facts may be of a start that was killed
        write_tensors(file, {"sketch": features.seed_sketches * features.scale})
    if config.token_batch_size == "auto":  # the same in every start and rank, so that the bits are
        rows.batch_runner.token_batch_size = record.token_batch_size
    work.progress.say(
        f"{title}: {path}, step {record.step}, learning rate {record.learning_rate:.3g}, {record.layers} layers"
    )
    write_missing(work, rows, SketchStore.open(paths.shards), missing, title, quiet=True)
    return record


def checkpoint_key(work: Workspace, name: str) -> str:
    """Name a checkpoint by its content, and by the options of its pass: a folder never holds anything else.

    Raises:
        ConfigError: when it is no directory, and was not swept before.
    """
    path = Path(name)
    if not path.is_dir():
        for key, record in work.run.sweep.checkpoints.items():
            if record.path == name and record.state == "done":  # a training run keeps its last ones only
                return key
        raise ConfigError(f"checkpoints: expected a directory with a model and its optimizer's state, got {path}")
    state = next((path / name for name in FILES if (path / name).is_file()), None)
    config = work.config
    made_of = [
        fingerprint_paths([path]),
        fingerprint_file(state) if state else None,
        config.feature_side,
    ]
    return blake2b(json.dumps(made_of, sort_keys=True).encode(), digest_size=8).hexdigest()


def learning_rate(path: Path, last: float) -> float:
    """Mean learning rate of the epoch that ends with a checkpoint, as its trainer_state.json logs it; `last`, of the
    optimizer's state, where it does not."""
    try:
        state = json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        until = float(state["epoch"])
        rates = [
            float(entry["learning_rate"])
            for entry in state["log_history"]
            if "learning_rate" in entry and until - 1 < float(entry["epoch"]) <= until
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return last
    return float(np.mean(rates)) if rates else last


def _remember_swept(work: Workspace) -> None:
    """Let a start without the option `checkpoints` ask for those last swept."""
    sweep = work.run.sweep
    work.run.remember(checkpoints=[sweep.checkpoints[key].path for key in sweep.checkpoint_order])


def _record(work: Workspace, key: str, record: CheckpointRecord) -> None:
    work.run.update("sweep", checkpoints={**work.run.sweep.checkpoints, key: record})
