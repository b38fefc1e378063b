"""The memory of a sweep, and its batch: from the shapes of the model and of the seeds' factors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gdig.config.config import Config
from gdig.influence.dense_plan import COLUMNS, cpu_tokens, dense_room, plan_dense, planned_bytes
from gdig.influence.layer_scores import shapes_of
from gdig.influence.memory_plan import MemoryParts
from gdig.influence.seed_factors import SeedFactors
from gdig.model.batch_size import LEAST_TOKENS, largest_batch
from gdig.model.causal_model import Model
from gdig.model.precision import takes_bfloat16
from gdig.model.token_memory import TokenMemory, weight_bytes


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep will hold.

    Attributes:
        limit: bytes for a batch: what the plan leaves beside U, V and W, of which a layer has the one or the other, and
            beside the numbers of rows. None where the system does not say.
        token_batch_size: tokens in a batch.
        dense_bytes: bytes of W in all layers that score by it (`gdig.influence.dense_plan`).
        peak: what holds the memory at the peak.
        from_files: the layers whose factors each batch reads from their files (`gdig.influence.sweep_memory`).
    """

    limit: int | None
    token_batch_size: int
    dense_bytes: int
    peak: MemoryParts
    from_files: tuple[int, ...] = ()


def plan_sweep(
    model: Model,
    config: Config,
    seeds: Sequence[SeedFactors],
    *,
    limit: int | None,
    longest: int,
    rows: int,
    token_memory: TokenMemory | None = None,
    dense_bytes: int | None = None,
) -> SweepPlan:
    """Plan the memory of a sweep. The smallest batch comes first, then W, and then a larger batch.

    Args:
        model: the model with its layers.
        config: token_batch_size.
        seeds: the seeds' factors in each layer. They may be on the device "meta": shapes and energies count.
        limit: bytes that the plan may take for all that the sweep holds beside the weights
            (`gdig.model.batch_size.room`). None: no limit.
        longest: tokens of the longest example.
        rows: rows of the pool.
        token_memory: what a pass holds for each token, when it is counted already.
        dense_bytes: bytes of W, when an earlier start has planned them.
    """
    tokens = token_memory or TokenMemory.count(model)
    auto = config.token_batch_size == "auto"
    batch = LEAST_TOKENS if auto else int(config.token_batch_size)
    shapes = shapes_of(seeds, takes_bfloat16(config.matmul_precision, model.device))
    of_rows = _row_bytes(model, config, shapes[0].seeds if shapes else 0, rows)
    if dense_bytes is None:
        by_columns = sum(shape.bytes_of("brief columns" if shape.brief else "none") for shape in shapes)
        beside = by_columns + of_rows + tokens.of_batch(max(batch, longest))
        dense_bytes = planned_bytes(shapes, dense_room(limit, beside, model.device))
    plan = plan_dense(shapes, dense_bytes)
    held = sum(shape.bytes_of(dense) for shape, dense in zip(shapes, plan, strict=True) if dense in COLUMNS)
    rest = None if limit is None else limit - held - dense_bytes - of_rows
    if auto:
        most = cpu_tokens(sum(dense not in COLUMNS for dense in plan), len(plan))
        batch = largest_batch(tokens, rest, model.device, cpu_tokens=most)
    peak = MemoryParts(
        weight_bytes(model.module),
        max(batch, longest) * tokens.a_token(),
        tokens.head,
        seed_factors=held,
        dense=dense_bytes,
        rows=of_rows,
    )
    return SweepPlan(rest, batch, dense_bytes, peak)


def _row_bytes(model: Model, config: Config, n_seeds: int, rows: int) -> int:
    """Bytes of the numbers of rows, which are in the computer's memory: of one shard while it is made, as many again
    for its resume file, and of the shard before while that is written."""
    if model.device.type != "cpu":
        return 0
    a_row = 4 * (n_seeds + 2 * config.projection_dim + 1)  # influence, sketch, hidden states and loss in float32
    size = config.rows_per_shard
    return a_row * (2 * min(rows, size) + min(max(0, rows - size), size))
