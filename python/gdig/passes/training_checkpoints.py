"""The sweeps of training checkpoints, for LESS. The shards of a checkpoint depend on no other checkpoint."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from gdig.data.fingerprint import fingerprint_file, fingerprint_paths
from gdig.errors import ConfigError, GdigError, ModelError
from gdig.influence.memory_plan import MemoryParts
from gdig.influence.refusal import beyond_limit, fits
from gdig.influence.seeds_resume import PartitionSeeds
from gdig.model.batch_size import room
from gdig.model.causal_model import Model
from gdig.model.load import load_model
from gdig.model.optimizer import FILES, read_adam
from gdig.model.precision import products_made_from
from gdig.model.token_memory import TokenMemory
from gdig.nouns import counted
from gdig.passes.adam_pass import AdamFeatures, trained_layers
from gdig.passes.adam_seeds import SeedGradients, pass_seeds, seed_batches
from gdig.passes.gradient_projections import GradientProjections, feature_bytes, gradient_bytes
from gdig.passes.row_pass import RowPass, first_batch_size
from gdig.passes.shard_resume import batches_digest
from gdig.passes.shards import find_missing, in_sweep_part, open_store, write_missing
from gdig.run.links import remove_folder
from gdig.run.origin import checkpoint_origin, checkpoint_rows_origin, pass_origin
from gdig.run.record import CheckpointRecord
from gdig.run.resume_layout import resume_folder
from gdig.run.session import Workspace
from gdig.store.resume_file import Pace
from gdig.store.sketches import SketchStore
from gdig.store.tensor_file import CheckedFile


def checkpoints_stage(work: Workspace) -> bool:
    """Write the missing shards of the checkpoints in the option `checkpoints`.

    The run also keeps the shards of checkpoints that the option no longer lists.

    Returns:
        Whether all shards of the listed checkpoints are on disk.
    """
    config, run, n = work.config, work.run, work.swept_rows
    try:
        keys = [checkpoint_key(work, path) for path in config.checkpoints]
    except GdigError:
        remember_swept(work)
        raise
    complete = True
    for number, (path, key) in enumerate(zip(config.checkpoints, keys, strict=True), 1):
        record = run.sweep.checkpoints.get(key)
        missing, seeds_missing = list(range(-(-n // config.rows_per_shard))), True
        if record is not None:
            store = open_store(work.layout.checkpoint(key).shards, work, checkpoint_rows_origin(run.record, key))
            missing, seeds_missing = find_missing(work, store, n), not _seeds_are_swept(work, key)
        missing = [shard for shard in missing if in_sweep_part(shard, config.sweep_part)]
        if missing or seeds_missing:
            work.require_all_files(n)
            title = f"checkpoint {number} of {len(keys)}"
            facts = asdict(record) if record else None
            origin = pass_origin(run.record, "checkpoint", key)
            arguments: dict[str, Any] = {
                "key": key, "path": path, "missing": missing, "title": title, "facts": facts, "origin": origin,
            }  # fmt: skip
            work.ranks.task("checkpoint", **arguments)
            try:
                record = sweep_checkpoint_on_ranks(work, **arguments)
            except GdigError:
                folder = work.layout.checkpoint(key).shards
                begun = any(folder.glob("*.safetensors")) or resume_folder(folder).exists()
                if not begun:  # the checkpoint cannot be swept, so later starts do not list it
                    run.update("sweep", checkpoints={k: v for k, v in run.sweep.checkpoints.items() if k != key})
                    remove_folder(work.layout.checkpoint(key).path)
                    remember_swept(work)
                raise
        remove_folder(work.layout.checkpoint(key).seeds_resume)
        assert record is not None  # a shard is on disk, so its record is
        done = not SketchStore.open(work.layout.checkpoint(key).shards).missing(n)
        _record(work, key, replace(record, state="done" if done else "running"))
        complete &= done
    run.update("sweep", checkpoint_order=tuple(keys))
    return complete


def sweep_checkpoint_on_ranks(
    work: Workspace, key: str, path: str, missing: list[int], title: str, facts: dict[str, Any] | None, origin: str
) -> CheckpointRecord:
    """Write the missing shards of a checkpoint. All ranks call this with the same arguments.

    Args:
        work: the workspace of this rank.
        key: the key of the checkpoint (`checkpoint_key`).
        path: the directory of the checkpoint.
        missing: the numbers of the shards to write.
        title: the title of the bar.
        facts: the fields of the CheckpointRecord of an earlier start. None: rank 0 computes and records them.
        origin: of the unscaled rows (gdig.run.origin).

    Returns:
        The record of the checkpoint.
    """
    ranks, config = work.ranks, work.config
    work.forget_model()
    options = config.with_options(model=path, device=ranks.device(config.device), torch_compile=False)
    model = load_model(options, architecture=config.model)
    if work.limits.vocab_size and model.vocab_size < work.limits.vocab_size:
        raise other_vocabulary(path, model.vocab_size, work.limits.vocab_size)
    adam = read_adam(Path(path), model.module)
    model, moments = trained_layers(model, adam)
    if facts is None:
        if ranks.main:
            rate = learning_rate(Path(path), adam.learning_rate)
            record = CheckpointRecord(path, rate, moments[0].step, len(moments), token_batch_size=None)
            _record(work, key, record)  # before the first file of it
            facts = asdict(record)
        facts = ranks.gather(facts)[0]
    record = CheckpointRecord(**facts)
    _require_room(work, model)
    projections = GradientProjections(model, config)
    seeds = _pass_seeds(work, model, projections, key, title, origin)
    features = AdamFeatures(model, moments, projections, seeds)
    rows = RowPass(model, features, config, work.progress, features.scale)
    if record.token_batch_size is None:
        size = None
        if ranks.main:
            size = rows.find_batch_size(work.sample("probe", config.probe_rows)[0])
            _record(work, key, replace(record, token_batch_size=size))
            store = open_store(work.layout.checkpoint(key).shards, work, checkpoint_rows_origin(work.run.record, key))
            find_missing(work, store, work.swept_rows)  # removes what another sweep has left
        record = replace(record, token_batch_size=ranks.gather(size)[0])
    paths = work.layout.checkpoint(key)
    # An earlier start can end between record and file.
    if ranks.main and (file := _own_sketches(work, key)).damage() is not None:
        file.write({"sketch": features.seed_sketches * features.scale})
    if config.token_batch_size == "auto" and record.token_batch_size is not None:
        # The bits depend on it, so every start and rank takes the same.
        rows.batch_runner.token_batch_size = record.token_batch_size
    work.progress.say(
        f"{title}: {path}, step {record.step}, learning rate {record.learning_rate:.3g}, "
        f"{counted(record.layers, 'layer')}"
    )
    write_missing(work, rows, SketchStore.open(paths.shards), missing, title, origin, quiet=True)
    return record


def _require_room(work: Workspace, model: Model) -> None:
    """Refuse a checkpoint whose smallest batch does not fit a plan beside the seeds' features. Where gradient
    checkpointing makes it fit, that is turned on.

    Raises:
        MemoryShortError: with what it needs.
    """
    config, seeds = work.config, work.seed_examples
    limit = room(model, 1 / work.ranks.local_world if model.device.type == "cpu" else 1.0)
    batch = max(first_batch_size(config), *map(len, seeds))

    def held() -> MemoryParts:
        tokens, features = TokenMemory.count(model), feature_bytes(model, config) * len(seeds)
        activations, gradients = batch * tokens.a_token(), gradient_bytes(model, batch)
        return MemoryParts(0, activations, tokens.head, work=gradients, seed_factors=features)

    if not fits(held(), limit):
        model.save_memory()
    if limit is not None and not fits(memory := held(), limit):
        raise beyond_limit("checkpoint", memory, limit)


def _pass_seeds(
    work: Workspace, model: Model, projections: GradientProjections, key: str, title: str, origin: str
) -> SeedGradients:
    """Pass the seeds through a checkpoint, or read what earlier starts kept of them.

    Rank 0 passes the seeds, and the others read its files. What cannot be read passes again.
    """
    ranks, config, seeds = work.ranks, work.config, work.seed_examples
    hashes = np.array([seed.hash for seed in seeds], np.uint64)
    batches = batches_digest(hashes, np.arange(len(seeds), dtype=np.int64), seed_batches(model, seeds, config))
    products = products_made_from(config.matmul_precision, model.device)
    made_from = " ".join([origin, batches, str(model.dtype), model.device.type, products])
    folder, layers = work.layout.checkpoint(key).seeds_resume, [layer.name for layer in model.layers]
    resume = PartitionSeeds(folder, made_from, layers, work.progress.warn, Pace())
    if ranks.main:
        with work.progress.stage(f"{title}: seeds", len(seeds), "seeds") as bar:
            passed = pass_seeds(model, projections, seeds, config, bar, resume)
    ranks.doing(f"{title}: seeds")
    ranks.gather(None)  # rank 0 has written all of them
    return passed if ranks.main else pass_seeds(model, projections, seeds, config, resume=resume)


def checkpoint_key(work: Workspace, name: str) -> str:
    """Return the key of a checkpoint: a hash of its content and of the options of its pass.

    The key names the checkpoint's folder in the run directory, so a folder holds the shards of one content.

    Raises:
        ConfigError: if `name` is no directory, and no finished sweep of it exists.
    """
    path = Path(name)
    if not path.is_dir():
        for key, record in work.run.sweep.checkpoints.items():
            if record.path == name and record.state == "done":  # a training run deletes its first checkpoints
                return key
        raise no_directory(path)
    state = next((path / name for name in FILES if (path / name).is_file()), None)
    config = work.config
    identity = [
        fingerprint_paths([path]),
        fingerprint_file(state) if state else None,
        config.feature_side,
    ]
    return blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=8).hexdigest()


def no_directory(path: Path) -> ConfigError:
    """Return the error of a checkpoint that is no directory."""
    return ConfigError(f"checkpoints={path}: expected a directory with a model and its optimizer's state")


def other_vocabulary(path: str, own: int, expected: int) -> ModelError:
    """Return the error of a checkpoint with fewer words than the rows are encoded for."""
    return ModelError(
        f"{path}: has a vocabulary of {own} tokens, the rows are encoded for one of {expected}; give a checkpoint of "
        "the same model"
    )


def learning_rate(path: Path, optimizer_rate: float) -> float:
    """Return the mean learning rate of the epoch that ends with a checkpoint.

    Args:
        path: the directory of the checkpoint, whose trainer_state.json logs the learning rates.
        optimizer_rate: the learning rate in the optimizer's state. It is returned if trainer_state.json has none.
    """
    try:
        state = json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        end = float(state["epoch"])
        rates = [
            float(entry["learning_rate"])
            for entry in state["log_history"]
            if "learning_rate" in entry and end - 1 < float(entry["epoch"]) <= end
        ]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return optimizer_rate
    return float(np.mean(rates)) if rates else optimizer_rate


def _own_sketches(work: Workspace, key: str) -> CheckedFile:
    """The file of the seeds' sketches by a checkpoint."""
    layout = work.layout
    return layout.checked(layout.checkpoint(key).seed_sketches, checkpoint_origin(work.run.record, key))


def _seeds_are_swept(work: Workspace, key: str) -> bool:
    damage = _own_sketches(work, key).damage()
    if damage is not None and work.run.sweep.checkpoints[key].state == "done":
        work.progress.warn(f"{damage.what}; the seeds are swept again")
    return damage is None


def remember_swept(work: Workspace) -> None:
    """Store the checkpoints of the last sweep as the option of a later start without `checkpoints`."""
    sweep = work.run.sweep
    work.run.remember(checkpoints=[sweep.checkpoints[key].path for key in sweep.checkpoint_order])


def _record(work: Workspace, key: str, record: CheckpointRecord) -> None:
    work.run.update("sweep", checkpoints={**work.run.sweep.checkpoints, key: record})
