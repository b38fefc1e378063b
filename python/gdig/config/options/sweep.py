"""Options of the sweep: the sketch, the stored files, and the checkpoints of a training run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gdig.config.options.basic import Basic


@dataclass(frozen=True)
class SweepOptions:
    """The sketch, and how the result of the sweep is stored."""

    projection_dim: int = 512
    """Columns of a sketch. At the default, a cosine of sketches is the gradients' to about 0.04. Raise it for
    finer clusters, at more disk."""
    projection_side: int = 32
    """Side of the square that each layer's gradient is projected to first, by two Rademacher matrices. The default
    costs little beside the model's pass. Raise it together with projection_dim."""
    projection_seed: int = 0
    """Random number that decides the projections. It is separate from random_seed, so that the sketches of several
    random seeds compare. Change it to see how much the clusters depend on the projection."""
    sketch_space: Literal["auto", "raw", "fisher"] = "auto"
    """What is projected: the gradient (raw), or the gradient times the root of the inverse curvature (fisher). raw
    follows the paper. With fisher, inner products of sketches stand for influence between rows, at no cost in the
    sweep. auto is fisher, or raw with inversion=identity, where both are the same."""
    hidden_layers: int = 1
    """Layers whose hidden states the hidden-state sketch is made of, from the last one down. Each layer gets
    projection_dim / hidden_layers columns. 1 is RDS+; more layers are CRDS-R, and keep every block's states in memory
    during a pass."""
    sketch_dtype: Literal["float16", "bfloat16", "int8", "float32"] = "float16"
    """Number format of the stored sketches; int8 has one float32 scale a row. float16 keeps the sketch to its own
    accuracy, on half the disk of float32. Take int8 for pools of many million rows."""
    rows_per_shard: int = 16_384
    """Rows of the pool in one file of the sweep. Several processes share the sweep by these files. An interrupted sweep
    loses a minute, whatever their size. Lower it when there are fewer files than processes."""


@dataclass(frozen=True)
class CheckpointOptions:
    """Checkpoints of a training run, for the methods less and g2is. Each costs its own pass over the pool. Adding or
    leaving out a checkpoint keeps the rest of the run."""

    checkpoints: Basic[tuple[str, ...]] = ()
    """Directories that transformers' Trainer or accelerate saved, for the methods less and g2is. Each holds a model or
    adapter and Adam's state: optimizer.pt, optimizer.bin, or moments by name in optimizer.safetensors. less scores by
    all of them; g2is walks by the last."""
    feature_side: int = 64
    """Longest side of a layer's gradient once it is projected for the cosines; shorter sides stay as they are. The
    seeds' gradients take feature_side^2 numbers a seed and layer in memory. Lower it when that memory is short."""
