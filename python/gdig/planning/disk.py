"""The disk that a run will take, from shapes."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from gdig.config.config import Config
from gdig.errors import DiskError
from gdig.influence.conjugate_gradients import search_bytes
from gdig.influence.memory_plan import MemoryPlan
from gdig.model.causal_model import Model
from gdig.nouns import gib
from gdig.passes.gradient_projections import feature_bytes
from gdig.planning.left import Left

_SKETCH_BYTES = {"float16": 2, "bfloat16": 2, "int8": 1, "float32": 4}
_OTHER_BYTES = 4 + 4 + 4 + 1 + 8
"""Of a row: loss, tokens, cut, valid, hash."""
_LABEL_BYTES = 4 + 4
"""Of a row: label and distance."""
_HEADER_BYTES = 4096
"""Most of a file beside its numbers: names, shapes and checksum."""


def disk_bytes(
    model: Model | None,
    config: Config,
    rows: int,
    n_seeds: int,
    seed_columns: tuple[int, ...],
    n_clusters: int,
    memory: MemoryPlan | None,
    left: Left,
    searches: int = 0,
) -> dict[str, int]:
    """Return the bytes of the files to come, by what they hold: curvature, seeds, resume files, sweep, clusters.

    Resume files are those of a fit that is not finished; the fit removes them. The selection comes on top: the chosen
    rows, as they are in the pool.

    Args:
        model: the model with its layers; None where no stage to come needs it.
        config: gradients, inversion, projection_dim, sketch_dtype, rows_per_shard, checkpoints, method.
        rows: rows of the pool.
        n_seeds: the number of seeds.
        seed_columns: columns of all seeds in each layer.
        n_clusters: the number of clusters.
        memory: of the fit of the curvature; None where none is to come.
        left: what is to come.
        searches: by conjugate gradients that run side by side.
    """
    curvature = seeds = resume = of_checkpoint = 0
    item = torch.promote_types(model.dtype, torch.float32).itemsize if model is not None else 4
    if config.gradients and left.fit and model is not None:
        for layer, columns in zip(model.layers, seed_columns, strict=True):
            j, o = layer.width, layer.out_features
            seeds += columns * (j + o) * item + (2 * n_seeds + 1) * 8 + _HEADER_BYTES
            if left.curvature:
                squares = 0 if config.inversion == "kfac" else o * j
                curvature += (j * j + o * o + squares) * item + (j + o) * 8 + _HEADER_BYTES
    if memory is not None:  # the sums of a partition and their totals, or the factors that take their place
        resume = max((peak.sums + peak.eigenvectors for peak in memory.passes.values()), default=0)
    if searches and model is not None:
        resume = max(resume, searches * search_bytes(model)[1])
    scale = 4 if config.sketch_dtype == "int8" else 0
    sketch = config.projection_dim * _SKETCH_BYTES[config.sketch_dtype] + scale
    influence = 4 * n_seeds if config.gradients else 0
    shards = -(-rows // config.rows_per_shard)
    a_pass = rows * (sketch + influence + _OTHER_BYTES) + shards * _HEADER_BYTES
    of_seeds = n_seeds * (config.projection_dim * 6 + influence) + _HEADER_BYTES
    hidden = rows * config.projection_dim * 2
    sweeps = sum(share * a_pass + (share == 1) * of_seeds for share in (left.sweep, *left.checkpoints))
    clusters = 0
    if left.clusters:
        clusters = rows * _LABEL_BYTES + n_clusters * config.projection_dim * 4 + (shards + 1) * _HEADER_BYTES
    if any(left.checkpoints) and model is not None:
        of_checkpoint = n_seeds * (_HEADER_BYTES + config.projection_dim * item + feature_bytes(model, config))
    return {
        "curvature": curvature,
        "seeds": seeds,
        "resume files": resume,
        "sweep": int(sweeps + left.sweep * hidden),
        "seeds of a checkpoint": of_checkpoint,
        "clusters": clusters,
    }


def free_disk(path: Path) -> int:
    """Return the bytes free on the disk of a directory that may not exist yet."""
    existing = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
    return shutil.disk_usage(existing).free


def require_disk(disk: dict[str, int], free: int, path: Path) -> None:
    """Refuse a run that its disk cannot hold.

    Args:
        disk: bytes of the files to come, by what they hold.
        free: bytes that are free.
        path: the run directory.

    Raises:
        RunError: when the stages that are left need more than is free.
    """
    needed = sum(disk.values())
    if needed > free:
        raise DiskError(
            f"{path}: the run needs {gib(needed)} of disk, {gib(free)} are free; take another "
            "run_path, a smaller projection_dim, sketch_dtype=int8, or fewer layers"
        )
