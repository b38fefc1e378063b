"""How the seeds pass: the groups that pass together, and the partitions of the layers, planned from shapes.

While the seeds pass, memory holds the inverses of a partition's layers, the seeds' factors there, and what these layers
see of the probe rows. A further partition costs one more pass of the seeds and the probe rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gdig.config.config import Config
from gdig.data.tokens import Example
from gdig.distributed.ranks import Ranks
from gdig.influence.memory_plan import MemoryParts
from gdig.influence.refusal import beyond_limit, fits
from gdig.model.batch_size import room
from gdig.model.causal_model import Model
from gdig.model.layers import Layer
from gdig.model.token_memory import TokenMemory, weight_bytes

CPU_BYTES = 3 << 29
"""Bytes that a partition may take on a CPU beside a small model: 1.5 of 4 GiB. Beside a larger model it may take as
much as the model's weights, because each partition reads them."""

_GROUP_SEEDS = 4
"""Most seeds of a pass. They share the reading of the weights, and the gradients of the probe rows. More seeds would
leave ranks without work."""
_GROUP_TOKENS = 1024
"""Most tokens of a pass, pads included; one seed alone can have more."""


@dataclass(frozen=True)
class SeedBytes:
    """Bytes that the layers of a partition hold while the seeds pass.

    Attributes:
        inverses: Q_A, Q_S and the eigenvalues.
        probe: inputs and output gradients at the tokens of the probe rows.
        factors: U and V of all seeds, at most.
    """

    inverses: int = 0
    probe: int = 0
    factors: int = 0

    @classmethod
    def of(
        cls, layer: Layer, dtype: torch.dtype, config: Config, lengths: Sequence[int], probe_tokens: int
    ) -> SeedBytes:
        """Of one layer. A seed has at most as many columns as tokens; the experts of a matrix share its tokens."""
        item, o, j = torch.promote_types(dtype, torch.float32).itemsize, layer.out_features, layer.width
        columns = sum(min(config.seed_rank, math.ceil(length * layer.share), o, j) for length in lengths)
        inverses = 0 if config.inversion == "identity" else o * o + j * j + o * j
        probe = math.ceil(probe_tokens * layer.share)
        return cls(inverses * item, probe * (o + j) * item, columns * (o + j) * item)

    def __add__(self, other: SeedBytes) -> SeedBytes:
        return SeedBytes(self.inverses + other.inverses, self.probe + other.probe, self.factors + other.factors)

    @property
    def total(self) -> int:
        """The sum of the parts."""
        return self.inverses + self.probe + self.factors


@dataclass(frozen=True)
class SeedPlan:
    """The partitions of the seeds' passes, and what the largest of them holds."""

    partitions: tuple[tuple[int, ...], ...]
    largest: SeedBytes


def plan_seeds(
    model: Model,
    config: Config,
    lengths: Sequence[int],
    probe_tokens: int,
    limit: int | None,
    passes: Sequence[int] | None = None,
) -> SeedPlan:
    """Fill partitions of consecutive layers one after another, as long as they fit. A layer alone always does.

    Args:
        model: the model with its layers, which may be on the device "meta".
        config: inversion, seed_rank.
        lengths: tokens of each seed.
        probe_tokens: tokens of the probe rows.
        limit: bytes beside the weights. None: no limit.
        passes: for each layer, bytes of the largest pass whose lowest layer it is (`pass_bytes`). None: none.
    """
    most = max(CPU_BYTES, weight_bytes(model.module)) if model.device.type == "cpu" else None

    def is_within(size: SeedBytes, lowest: int) -> bool:
        of_pass = 0 if passes is None else passes[lowest]
        return (most is None or size.total <= most) and (limit is None or size.total + of_pass <= limit)

    sizes = [SeedBytes.of(layer, model.dtype, config, lengths, probe_tokens) for layer in model.layers]
    if config.inversion == "cg":  # searches in all layers together
        return SeedPlan((tuple(range(len(sizes))),), sum(sizes, SeedBytes()))
    partitions: list[list[int]] = []
    held: list[SeedBytes] = []
    for index, size in enumerate(sizes):
        if partitions and is_within(held[-1] + size, partitions[-1][0]):
            partitions[-1].append(index)
            held[-1] = held[-1] + size
        else:
            partitions.append([index])
            held.append(size)
    return SeedPlan(tuple(map(tuple, partitions)), max(held, key=lambda size: size.total))


def make_groups(seeds: Sequence[Example], rotary_switch: int | None = None) -> list[range]:
    """Cut the seeds into the groups that are passed together: consecutive numbers, the same for all ranks.

    A group has at most 4 seeds, and at most 1,024 tokens with pads unless it is one seed. All of its seeds lie on one
    side of `rotary_switch` (`model.rotary`).
    """
    groups: list[range] = []
    start = longest = 0
    for number, seed in enumerate(seeds):
        longest = max(longest, len(seed.input_ids))
        lines = number + 1 - start
        before = len(seeds[max(number - 1, 0)].input_ids)
        crosses = rotary_switch is not None and (len(seed.input_ids) > rotary_switch) != (before > rotary_switch)
        if lines > 1 and (crosses or lines > _GROUP_SEEDS or lines * longest > _GROUP_TOKENS):
            groups.append(range(start, number))
            start, longest = number, len(seed.input_ids)
    return [*groups, range(start, len(seeds))] if len(seeds) else groups


def largest_pass(seeds: Sequence[Example], longest_probe: int, rotary_switch: int | None) -> int:
    """Tokens with pads of the largest pass: of a group of seeds, or of the longest row of the probe."""
    groups = make_groups(seeds, rotary_switch)
    return max([longest_probe, *(len(group) * max(len(seeds[number]) for number in group) for group in groups)])


def pass_bytes(tokens: TokenMemory, batch: int) -> list[int]:
    """For each layer, bytes of a pass of `batch` tokens whose lowest layer it is: the graph begins there."""
    return [tokens.of_batch(batch, lowest) for lowest in range(len(tokens.graph))]


def least_memory(
    model: Model,
    config: Config,
    partitions: Sequence[Sequence[int]],
    probe_tokens: int,
    tokens: TokenMemory,
    batch: int,
) -> MemoryParts:
    """Return what the largest pass holds at least: without the seeds' factors, whose columns are not known yet."""
    held = []
    for partition in partitions:
        sizes = [SeedBytes.of(model.layers[i], model.dtype, config, [], probe_tokens) for i in partition]
        size, activations = sum(sizes, SeedBytes()), batch * tokens.a_token(partition[0])
        held.append(MemoryParts(0, activations + size.probe, tokens.head, eigenvectors=size.inverses))
    return max(held, key=lambda memory: memory.total)


def plan_seeds_on_ranks(
    model: Model, config: Config, seeds: Sequence[Example], probe: Sequence[Example], ranks: Ranks
) -> list[list[int]]:
    """Return the partitions for the memory that is free now. All ranks get those of rank 0.

    Where a layer alone does not fit, gradient checkpointing is turned on.

    Raises:
        MemoryShortError: if a layer alone does not fit even so.
    """
    limit = room(model, 1 / ranks.local_world if model.device.type == "cpu" else 1.0)
    batch = largest_pass(seeds, max(map(len, probe), default=1), model.rotary_switch)
    lengths, probe_tokens = [len(seed) for seed in seeds], sum(map(len, probe))

    def planned() -> tuple[SeedPlan, MemoryParts]:
        tokens = TokenMemory.count(model)
        plan = plan_seeds(model, config, lengths, probe_tokens, limit, pass_bytes(tokens, batch))
        return plan, least_memory(model, config, plan.partitions, probe_tokens, tokens, batch)

    plan, least = planned()
    # Conjugate gradients have all layers at once, and begin as many searches as half of the free memory holds.
    if config.inversion != "cg" and not fits(least, limit) and model.save_memory():
        plan, least = planned()
    if config.inversion != "cg" and limit is not None and not fits(least, limit):
        raise beyond_limit("seeds", least, limit)
    return ranks.gather([list(partition) for partition in plan.partitions])[0]
