"""The memory of a fit and of a sweep, planned from shapes: bytes by what holds them, the batch size, the partitions.

A partition is a set of layers that one run over the sample fits. With several partitions the fit passes the sample
several times, and holds the sums and eigenvectors of one partition at a time. A layer's sums do not depend on the
other layers, so the partitions change no bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from gdig.config.config import Config
from gdig.data.tokens import Example
from gdig.distributed.ranks import Ranks
from gdig.errors import MemoryShortError
from gdig.influence.fit_bytes import FitBytes, added, fill_partitions, layer_groups
from gdig.model.batch_size import (
    LEAST_TOKENS,
    MEMORY_SHARE,
    checked_batch,
    most_tokens,
    room,
    typical_length,
)
from gdig.model.capture import GradientPass
from gdig.model.causal_model import Model
from gdig.model.free_memory import free_host_memory
from gdig.model.gradient_checkpointing import blocks_to_recompute
from gdig.model.token_memory import TokenMemory, gradient_checkpointing_bytes, hidden_width, weight_bytes
from gdig.nouns import gib

HEAD_CACHE_BYTES = 1 << 30
"""Most memory for results of the head that the second pass over a sample takes from the first."""
_HEAD_CACHE_SHARE = 16
"""The cache takes at most one part in this many of the memory that the plan may take."""


@dataclass(frozen=True)
class MemoryParts:
    """Bytes that a pass holds on the model's device at its peak, by what holds them.

    Attributes:
        weights: of the model.
        activations: what the graph of a batch keeps and what exists for a moment.
        head: blocks of logits, and the results that a second pass takes from the first.
        sums: of A and S, or of the squares that give EK-FAC's eigenvalues; with their totals where these are on the
            same device.
        eigenvectors: Q_A and Q_S; with the eigenvalues while the seeds pass.
        work: of one eigendecomposition, or of searches by conjugate gradients.
        seed_factors: U and V of all seeds.
        dense: W of all seeds, in the layers that score by it.
        rows: the numbers of the rows of a sweep, which wait for their shard.
    """

    weights: int = 0
    activations: int = 0
    head: int = 0
    sums: int = 0
    eigenvectors: int = 0
    work: int = 0
    seed_factors: int = 0
    dense: int = 0
    rows: int = 0

    @property
    def total(self) -> int:
        """The sum of the parts."""
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True)
class MemoryPlan:
    """What a fit of the curvature will hold.

    Attributes:
        limit: bytes that the plan may take beside the weights; None where the system does not say what is free.
        token_batch_size: tokens in a batch.
        partitions: indices of the layers of each partition, in the order of the model.
        gradient_checkpointing: whether the pass computes its activations again.
        passes: the memory of each pass at its peak, by the pass: factors, eigenvectors, eigenvalues. The seeds pass
            in partitions of their own (`gdig.influence.seed_plan`).
        host_totals: bytes of totals in the computer's memory, where the model is on another device.
        head_cache: bytes for the head's results of each batch, which later passes over the sample take.
    """

    limit: int | None
    token_batch_size: int
    partitions: tuple[tuple[int, ...], ...]
    gradient_checkpointing: bool
    passes: dict[str, MemoryParts]
    host_totals: int
    head_cache: int

    @property
    def peak(self) -> MemoryParts:
        """The memory of the pass that holds most."""
        return max(self.passes.values(), key=lambda memory: memory.total)


def plan_memory(
    model: Model,
    config: Config,
    *,
    limit: int | None,
    longest: int,
    sample_tokens: int = 0,
    world: int = 1,
    host_limit: int | None = None,
    token_memory: TokenMemory | None = None,
) -> MemoryPlan:
    """Plan the memory of a fit of the curvature from the shapes of a model, which may be on the device "meta".

    The plan first takes as few partitions as the smallest batch allows, because a partition more costs a pass more;
    gradient checkpointing comes in where it saves more passes than it costs. The plan then takes the largest batch
    that needs no further partition.

    Args:
        model: the model with its layers.
        config: inversion, token_batch_size.
        limit: bytes that the plan may take beside the weights (`gdig.model.batch_size.room`). None: no limit.
        longest: tokens of the longest example.
        sample_tokens: tokens of the sample, for the head's results.
        world: ranks that share the fit. Each passes its share of the sample over all layers of a partition, and has the
            totals of its own layers.
        host_limit: bytes of the computer's memory for this rank's totals, where the model is on another device.
        token_memory: what a pass holds for each token, when it is counted already.

    Raises:
        ModelError: if the sums of a single layer do not fit beside the longest example.
    """
    tokens = token_memory or TokenMemory.count(model)
    sizes = [FitBytes.of(layer, model) for layer in model.layers]
    groups = layer_groups(model.layers)
    cache = min(HEAD_CACHE_BYTES, sample_tokens * (_predictor_width(model) * model.dtype.itemsize + 8))
    cache = cache if limit is None else min(cache, max(0, limit) // _HEAD_CACHE_SHARE)
    least = LEAST_TOKENS if config.token_batch_size == "auto" else int(config.token_batch_size)
    fixed = tokens.head + cache
    auto = config.token_batch_size == "auto"

    def partitions(memory: TokenMemory, batch: int) -> list[list[int]] | None:
        def fits(size: FitBytes, lowest: int) -> bool:
            inside = limit is None or size.beside(max(batch, longest) * memory.a_token(lowest)) + fixed <= limit
            return inside and (host_limit is None or size.host_totals // world <= host_limit)

        return fill_partitions(groups, sizes, fits)

    saving = replace(tokens, graph=(gradient_checkpointing_bytes(model),) * len(sizes))
    plain, saved = partitions(tokens, least), partitions(saving, least) if blocks_to_recompute(model.module) else None
    # With gradient checkpointing a pass runs forward twice: four parts of work instead of three.
    checkpointing = saved is not None and (plain is None or 4 * len(saved) < 3 * len(plain))
    tokens, chosen = (saving, saved) if checkpointing else (tokens, plain)
    if chosen is None:
        held = max(least, longest) * tokens.a_token()
        needed = fixed + max(added(sizes[index] for index in group).beside(held) for group in groups)
        raise MemoryShortError(
            f"the fit needs {gib(needed)} for one example of {longest} tokens and the sums of its widest "
            f"layers, but may plan {gib(max(0, limit or 0))} (60 % of the free memory); lower max_length, "
            "free memory, or choose fewer or narrower layers with filter_modules"
        )
    batch = least
    while auto and batch * 2 <= most_tokens(model.device):
        more = partitions(tokens, batch * 2)
        if more is None or len(more) > len(chosen):
            break
        batch, chosen = batch * 2, more
    weights = weight_bytes(model.module)
    by_partition = [added(sizes[index] for index in partition) for partition in chosen]
    activations = [max(batch, longest) * tokens.a_token(partition[0]) for partition in chosen]
    passes = _pass_memory(weights, activations, fixed, by_partition, config.inversion)
    return MemoryPlan(
        limit,
        batch,
        tuple(tuple(partition) for partition in chosen),
        checkpointing,
        passes,
        max(size.host_totals for size in by_partition) // world,
        cache,
    )


def plan_fit(model: Model, examples: Sequence[Example], config: Config, ranks: Ranks) -> MemoryPlan:
    """Plan the memory of a fit on `examples` with the memory that is free now. All ranks get the plan of rank 0.

    On CUDA a small batch checks the plan. Where the plan asks for gradient checkpointing, it is turned on.

    Raises:
        ModelError: if the sums of a single layer do not fit beside the longest example.
    """
    tokens = TokenMemory.count(model)
    lengths = [len(example) for example in examples]
    longest, typical = max(lengths), typical_length(examples)
    share = 1 / ranks.local_world
    on_cpu = model.device.type == "cpu"
    limit = room(model, share if on_cpu else 1.0)
    host_free = None if on_cpu else free_host_memory()
    plan = plan_memory(
        model,
        config,
        limit=limit,
        longest=longest,
        sample_tokens=sum(lengths),
        world=ranks.world,
        host_limit=None if host_free is None else int(host_free * MEMORY_SHARE * share),
        token_memory=tokens,
    )
    size = plan.token_batch_size
    if config.token_batch_size == "auto" and limit is not None:
        beside = max(memory.sums + memory.eigenvectors for memory in plan.passes.values()) + plan.head_cache
        gradients = GradientPass(model, config.loss_reduction)
        size = checked_batch(
            size, tokens, limit - beside, model.device, lambda batch: gradients.run(batch, lambda *_: None), typical
        )
    facts = [size, [list(partition) for partition in plan.partitions], plan.head_cache, plan.gradient_checkpointing]
    size, partitions, head_cache, checkpointing = ranks.gather(facts)[0]
    if checkpointing:
        model.save_memory()
    return replace(
        plan,
        token_batch_size=size,
        partitions=tuple(tuple(partition) for partition in partitions),
        head_cache=head_cache,
        gradient_checkpointing=checkpointing,
    )


def beyond_share(name: str, memory: MemoryParts, limit: int | None) -> str | None:
    """Say that a pass needs more than a plan takes, which is so where its least is more; None where it does not.

    Args:
        name: of the pass.
        memory: what it holds.
        limit: bytes that the plan may take beside the weights; None where the system does not say what is free.
    """
    needed = memory.total - memory.weights
    if limit is None or needed <= limit:
        return None
    return (
        f"{name}: the pass needs {gib(needed)} beside the weights, but a plan takes {gib(limit)} "
        "(60 % of the free memory); free memory, or choose fewer layers or seeds"
    )


def _pass_memory(
    weights: int, held: Sequence[int], head: int, by_partition: Sequence[FitBytes], inversion: str
) -> dict[str, MemoryParts]:
    """The memory of the fit's passes, for the partition that holds most in each. `held`: activations of each."""
    pairs = list(zip(held, by_partition, strict=True))
    summed = [MemoryParts(weights, activations, head, sums=size.triangles) for activations, size in pairs]
    factored = [
        MemoryParts(weights, head=head, eigenvectors=size.eigenvectors - size.work, work=size.work)
        for size in by_partition
    ]
    passes = {"factors": summed, "eigenvectors": factored}
    if inversion in ("ekfac", "cg"):
        passes["eigenvalues"] = [
            MemoryParts(weights, activations, head, sums=size.squares, eigenvectors=size.bases)
            for activations, size in pairs
        ]
    return {name: max(each, key=lambda memory: memory.total) for name, each in passes.items()}


def _predictor_width(model: Model) -> int:
    return hidden_width(model) if model.head is not None else model.vocab_size
