"""The refusal of a pass that needs more than a plan takes: with numbers, and with what helps."""

from __future__ import annotations

from dataclasses import fields

from gdig.errors import MemoryShortError
from gdig.influence.memory_plan import MemoryParts
from gdig.model.batch_size import MEMORY_SHARE
from gdig.nouns import gib

_FEWER_LAYERS = "choose fewer layers, as in layers=upper:0.25"
_CHECKPOINT = f"lower feature_side or max_length, give fewer seeds, or {_FEWER_LAYERS}"
_ADVICE = {
    "seeds": f"lower max_length or probe_rows, give fewer seeds, lower seed_rank, or {_FEWER_LAYERS}",
    "sweep": "lower max_length, token_batch_size or rows_per_shard, give fewer seeds, lower seed_rank, or "
    f"{_FEWER_LAYERS}",
    "checkpoint seeds": _CHECKPOINT,
    "checkpoint": _CHECKPOINT,
}


def fits(memory: MemoryParts, limit: int | None) -> bool:
    """Whether a pass fits `limit` bytes beside the weights; None is no limit."""
    return limit is None or memory.total - memory.weights <= limit


def beyond_limit(name: str, memory: MemoryParts, limit: int) -> MemoryShortError:
    """Return the error of a pass that does not fit.

    Args:
        name: of the pass.
        memory: what its smallest form holds.
        limit: bytes that the plan may take beside the weights.
    """
    largest = sorted(fields(memory), key=lambda field: -getattr(memory, field.name))
    shown = [f for f in largest if f.name != "weights" and getattr(memory, f.name)][:2]
    what = " and ".join(f"{gib(getattr(memory, f.name))} of {f.name.replace('_', ' ')}" for f in shown)
    return MemoryShortError(
        f"{name}: the pass needs at least {gib(memory.total - memory.weights)} of memory beside the weights ({what}), "
        f"but a plan takes {gib(limit)}, 60 % of the {gib(int(limit / MEMORY_SHARE))} that are free; free memory, "
        f"{_ADVICE.get(name, f'lower max_length, or {_FEWER_LAYERS}')}"
    )
