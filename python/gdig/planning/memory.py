"""The memory of a run: what each pass holds, and the refusal of what cannot fit."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from gdig.config.config import Config
from gdig.errors import MemoryShortError
from gdig.influence.memory_plan import MemoryParts, MemoryPlan
from gdig.influence.refusal import beyond_limit, fits
from gdig.influence.sweep_plan import SweepPlan
from gdig.model.causal_model import Model
from gdig.model.device import resolve_device
from gdig.model.directory import model_directory
from gdig.model.free_memory import free_memory
from gdig.model.precision import resolve_dtype
from gdig.nouns import gib
from gdig.passes.gradient_projections import feature_bytes, gradient_bytes


def passes_of(
    model: Model,
    config: Config,
    n_seeds: int,
    memory: MemoryPlan | None,
    seeds: MemoryParts | None,
    sweep: SweepPlan,
    seeds_activations: int = 0,
) -> dict[str, MemoryParts]:
    """Return what each pass of a run holds at its peak, by the pass.

    Args:
        model: the model with its layers.
        config: checkpoints, feature_side.
        n_seeds: the number of seeds.
        memory: of the fit of the curvature; None for a run without one.
        seeds: of the fit's pass of the seeds.
        sweep: of the sweep.
        seeds_activations: activations of a batch of the seeds, which pass each training checkpoint.
    """
    passes = dict(memory.passes) if memory is not None else {}
    if seeds is not None:
        passes["seeds"] = seeds
    passes["sweep"] = sweep.peak
    if config.checkpoints:
        moments = sum(2 * 4 * layer.out_features * layer.width for layer in model.layers)
        features, work = feature_bytes(model, config) * n_seeds, gradient_bytes(model, sweep.token_batch_size)
        peak = sweep.peak
        held = MemoryParts(peak.weights, seeds_activations, peak.head, moments, 0, work, features)
        passes["checkpoint seeds"] = held
        passes["checkpoint"] = replace(held, activations=peak.activations)
    return passes


def require_memory(passes: dict[str, MemoryParts], limit: int | None, free: int | None = None) -> None:
    """Refuse a run one of whose passes needs more than a plan takes.

    Args:
        passes: what each pass holds.
        limit: bytes that a plan may take beside the weights; None where the system does not say what is free.
        free: bytes that the pass of the seeds may take instead, where the searches in it measure what is free when they
            begin (`inversion=cg`).

    Raises:
        MemoryShortError: naming the pass, what it needs, what a plan takes and what is free.
    """
    for name, memory in passes.items():
        most = free if name == "seeds" and free is not None else limit
        if limit is not None and not fits(memory, most):
            raise beyond_limit(name, memory, limit)


def require_weights(config: Config) -> None:
    """Refuse a model whose weights exceed the memory, before it is loaded.

    Raises:
        ModelError: naming what the weights need and what is free.
    """
    if config.quantization != "none" or config.device_map != "none":
        return
    device = resolve_device(config.device)
    dtype, path = resolve_dtype(config.precision, device), model_directory(config)
    numbers = sum(map(_numbers, _weight_files(path)))
    free = free_memory(device)
    if free is not None and numbers * dtype.itemsize > free:
        raise MemoryShortError(
            f"{path}: {numbers:,} weights in {str(dtype).removeprefix('torch.')} need {gib(numbers * dtype.itemsize)} "
            f"on {device}, but {gib(free)} are free; free memory, take a smaller precision, quantization=4bit, or a "
            "smaller model"
        )


def _weight_files(path: Path) -> list[Path]:
    """The files that transformers loads. Some models have the same weights again in files of another layout."""
    if (path / SAFE_WEIGHTS_NAME).is_file():
        return [path / SAFE_WEIGHTS_NAME]
    try:
        places = json.loads((path / SAFE_WEIGHTS_INDEX_NAME).read_text(encoding="utf-8"))["weight_map"]
        return [path / name for name in sorted(set(places.values()))]
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
    ):  # the loading says what is wrong
        return []


def _numbers(file: Path) -> int:
    if not file.is_file():
        return 0
    try:
        with safe_open(file, "pt") as tensors:
            shapes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118
    except (OSError, SafetensorError):  # the model's own loading says what is wrong with the file
        return 0
    return sum(math.prod(shape) for shape in shapes)
