"""The memory of a fit and of a sweep, planned from shapes: bytes by what holds them, the batch size, the partitions.

A partition is a set of layers that one run over the sample fits. With several partitions the fit passes the sample
several times, and holds the sums and eigenvectors of one partition at a time. A layer's sums do not depend on the
other layers, so the partitions change no bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import groupby

import torch

from gdig.config.config import Config
from gdig.data.tokens import Example
from gdig.distributed.ranks import Ranks
from gdig.errors import ModelError
from gdig.model.batch_size import LEAST_TOKENS, checked_batch, largest_batch, most_tokens, room, typical_length
from gdig.model.capture import GradientPass
from gdig.model.causal_model import Model
from gdig.model.layers import Layer
from gdig.model.token_memory import TokenMemory, checkpointed_bytes, hidden_width, weight_bytes

HEAD_CACHE_BYTES = 1 << 30
"""Most memory for results of the head that the second pass over a sample takes from the first."""
_HEAD_CACHE_SHARE = 16
"""The cache takes at most one part in this many of the memory that the plan may take."""
_EIGH_COPIES = 5
"""Matrices of the size of a factor that its eigendecomposition holds: the matrix twice, the result, LAPACK's work."""


@dataclass(frozen=True)
class MemoryParts:
    """Bytes that a pass holds on the model's device at its peak, by what holds them.

    Attributes:
        weights: of the model.
        activations: what the graph of a batch keeps and what exists for a moment.
        head: blocks of logits, and the results that a second pass takes from the first.
        sums: of A and S, or of the squares that give EK-FAC's eigenvalues; with their totals where these are on the
            same device.
        eigenvectors: Q_A and Q_S.
        work: of one eigendecomposition.
        seed_factors: U and V of all seeds.
    """

    weights: int = 0
    activations: int = 0
    head: int = 0
    sums: int = 0
    eigenvectors: int = 0
    work: int = 0
    seed_factors: int = 0

    @property
    def total(self) -> int:
        """The sum of the parts."""
        return sum(getattr(self, part.name) for part in fields(self))


@dataclass(frozen=True)
class MemoryPlan:
    """What a run will hold.

    Attributes:
        limit: bytes that the plan may take beside the weights; None where the system does not say what is free.
        token_batch_size: tokens in a batch of the fit.
        sweep_batch_size: tokens in a batch of the sweep.
        partitions: indices of the layers of each partition, in the order of the model.
        gradient_checkpointing: whether the longest example needs it.
        passes: the parts of each pass at its peak, by the pass: factors, eigenvectors, eigenvalues, seeds, sweep.
        host_totals: bytes of totals in the computer's memory, where the model is on another device.
        head_cache: bytes for the head's results of each batch, which later passes over the sample take.
    """

    limit: int | None
    token_batch_size: int
    sweep_batch_size: int
    partitions: tuple[tuple[int, ...], ...]
    gradient_checkpointing: bool
    passes: dict[str, MemoryParts]
    host_totals: int
    head_cache: int

    @property
    def peak(self) -> MemoryParts:
        """The parts of the pass that holds most."""
        return max(self.passes.values(), key=lambda parts: parts.total)


def plan_memory(
    model: Model,
    config: Config,
    *,
    limit: int | None,
    typical: int,
    longest: int,
    sample_tokens: int = 0,
    n_seeds: int = 0,
    token_memory: TokenMemory | None = None,
) -> MemoryPlan:
    """Plan the memory of a fit and of a sweep from the shapes of a model, which may be on the device "meta".

    The plan first takes as few partitions as the smallest batch allows, because a partition more costs a pass more. It
    then takes the largest batch that needs no further partition.

    Args:
        model: the model with its layers.
        config: inversion, token_batch_size, seed_rank.
        limit: bytes that the plan may take beside the weights (`gdig.model.batch_size.room`). None: no limit.
        typical: tokens of a typical example, for the columns of the seeds.
        longest: tokens of the longest example.
        sample_tokens: tokens of the sample, for the head's results.
        n_seeds: the number of seeds.
        token_memory: what a pass holds for each token, when it is counted already.

    Raises:
        ModelError: if the sums of a single layer do not fit beside the longest example.
    """
    tokens = token_memory or TokenMemory.count(model)
    sizes = [_LayerBytes.of(layer, model) for layer in model.layers]
    cache = min(HEAD_CACHE_BYTES, sample_tokens * (_predictor_width(model) * model.dtype.itemsize + 8))
    cache = cache if limit is None else min(cache, max(0, limit) // _HEAD_CACHE_SHARE)
    least = LEAST_TOKENS if config.token_batch_size == "auto" else int(config.token_batch_size)
    layers_room = None if limit is None else limit - tokens.head - cache
    groups = _groups(model.layers)
    checkpointing = False
    a_token = tokens.a_token()
    widest = max(_group_bytes(group, sizes) for group in groups)
    if layers_room is not None and longest * a_token > layers_room - widest:
        tokens, checkpointing = replace(tokens, kept=(checkpointed_bytes(model),)), True
        a_token = tokens.a_token()

    def partitions(batch: int) -> list[list[int]] | None:
        return _partitions(groups, sizes, None if layers_room is None else layers_room - max(batch, longest) * a_token)

    chosen = partitions(least)
    if chosen is None:
        needed = longest * a_token + widest + tokens.head + cache
        raise ModelError(
            f"the fit needs {needed / 2**30:.3g} GiB for one example of {longest} tokens and the sums of its widest "
            f"layers, but {max(0, limit or 0) / 2**30:.3g} GiB of memory may be planned (60 % of what is free); lower "
            "max_length, free memory, or choose fewer or narrower layers with filter_modules"
        )
    batch = least
    while config.token_batch_size == "auto" and batch * 2 <= most_tokens(model.device):
        more = partitions(batch * 2)
        if more is None or len(more) > len(chosen):
            break
        batch, chosen = batch * 2, more
    held = max(batch, longest) * a_token
    fit = _fit_parts(weight_bytes(model.module), held, tokens.head + cache, sizes, chosen, config)
    seed_bytes = sum(_seed_bytes(layer, model, config, n_seeds, typical) for layer in model.layers)
    last = _FitSizes.of(chosen[0] if len(chosen) == 1 else max(chosen, key=len), sizes)
    base = {"weights": weight_bytes(model.module), "head": tokens.head}
    fit["seeds"] = MemoryParts(
        **base, activations=longest * a_token, eigenvectors=last.bases + last.squares, seed_factors=seed_bytes
    )
    left = None if limit is None else limit - seed_bytes
    sweep_batch = (
        largest_batch(tokens, left, model.device) if config.token_batch_size == "auto" else int(config.token_batch_size)
    )
    fit["sweep"] = MemoryParts(**base, activations=max(sweep_batch, longest) * a_token, seed_factors=seed_bytes)
    totals = 0
    if model.device.type != "cpu":
        totals = max(max(size.triangles, size.squares) for size in (_FitSizes.of(part, sizes) for part in chosen))
    return MemoryPlan(
        limit, batch, sweep_batch, tuple(tuple(part) for part in chosen), checkpointing, fit, totals, cache
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
    limit = room(model, 1.0 if model.device.type == "cuda" else 1 / ranks.local_world)
    plan = plan_memory(
        model,
        config,
        limit=limit,
        typical=typical,
        longest=longest,
        sample_tokens=sum(lengths),
        token_memory=tokens,
    )
    size = plan.token_batch_size
    if config.token_batch_size == "auto" and limit is not None:
        beside = max(parts.sums + parts.eigenvectors for parts in plan.passes.values()) + plan.head_cache
        gradients = GradientPass(model, config.loss_reduction)
        size = checked_batch(
            size, tokens, limit - beside, model.device, lambda batch: gradients.run(batch, lambda *_: None), typical
        )
    facts = [size, [list(part) for part in plan.partitions], plan.head_cache, plan.gradient_checkpointing]
    size, partitions, head_cache, checkpointing = ranks.gather(facts)[0]
    if checkpointing:
        model.save_memory()
    return replace(
        plan,
        token_batch_size=size,
        partitions=tuple(tuple(part) for part in partitions),
        head_cache=head_cache,
        gradient_checkpointing=checkpointing,
    )


@dataclass(frozen=True)
class _LayerBytes:
    """Bytes of one layer: Q_A (0 where another layer's A serves), Q_S, L; and the largest of the layer's factors."""

    a: int
    s: int
    squares: int
    widest: int
    on_cpu: bool

    @classmethod
    def of(cls, layer: Layer, model: Model) -> _LayerBytes:
        item = torch.promote_types(model.dtype, torch.float32).itemsize
        j, o = layer.width, layer.out_features
        a = j * j * item if layer.input_name == layer.name else 0
        return cls(a, o * o * item, o * j * item, max(j, o) ** 2 * item, layer.device.type == "cpu")


@dataclass(frozen=True)
class _FitSizes:
    """Bytes of a partition: the sums of A and S with their totals, the eigenvectors, the squares with theirs."""

    triangles: int
    bases: int
    squares: int
    work: int

    @classmethod
    def of(cls, part: Sequence[int], sizes: Sequence[_LayerBytes]) -> _FitSizes:
        own = [sizes[index] for index in part]
        bases = sum(size.a + size.s for size in own)
        squares = sum(size.squares for size in own)
        work = _EIGH_COPIES * max(size.widest for size in own)
        return cls(bases, bases, squares, work)

    def peak(self, on_cpu: bool) -> int:
        """The most that the partition holds beside a batch. On the CPU the totals lie beside the sums."""
        copies = 2 if on_cpu else 1
        return max(self.triangles * copies, self.bases * copies + self.work, self.bases + copies * self.squares)


def _fit_parts(
    weights: int, held: int, head: int, sizes: Sequence[_LayerBytes], chosen: Sequence[Sequence[int]], config: Config
) -> dict[str, MemoryParts]:
    """The parts of the fit's passes, for the partition that holds most in each."""
    copies = 2 if sizes[0].on_cpu else 1
    parts = [_FitSizes.of(part, sizes) for part in chosen]
    passes = {
        "factors": MemoryParts(weights, held, head, sums=copies * max(part.triangles for part in parts)),
        "eigenvectors": MemoryParts(
            weights,
            sums=max(part.triangles for part in parts),
            eigenvectors=(copies - 1) * max(part.bases for part in parts),
            work=max(part.work for part in parts),
        ),
    }
    if config.inversion in ("ekfac", "cg"):
        passes["eigenvalues"] = MemoryParts(
            weights,
            held,
            head,
            sums=copies * max(part.squares for part in parts),
            eigenvectors=max(part.bases for part in parts),
        )
    return passes


def _groups(layers: Sequence[Layer]) -> list[list[int]]:
    """Indices of layers that share an input: they stay together, because they share the sums of A.

    Layers of one input follow one another in every model that we know. Where others lie between, these join.
    """
    first = {layer.name: index for index, layer in enumerate(layers)}
    reach: list[int] = []  # for each layer, the first index that its group must reach back to
    for index, layer in enumerate(layers):
        reach.append(min(index, first.get(layer.input_name, index)))
    start = len(layers)
    starts = []
    for index in reversed(range(len(layers))):
        start = min(start, reach[index])
        starts.append(start if start < index else index)
        if start >= index:
            start = len(layers)
    starts.reverse()
    return [[index for index, _ in group] for _, group in groupby(enumerate(starts), key=lambda pair: pair[1])]


def _group_bytes(group: Sequence[int], sizes: Sequence[_LayerBytes]) -> int:
    return _FitSizes.of(group, sizes).peak(sizes[group[0]].on_cpu)


def _partitions(groups: Sequence[list[int]], sizes: Sequence[_LayerBytes], room: int | None) -> list[list[int]] | None:
    """Fill partitions one after another, as far as `room` bytes go. None: a group alone does not fit."""
    parts: list[list[int]] = [[]]
    for group in groups:
        if room is not None:
            if _group_bytes(group, sizes) > room:
                return None
            if parts[-1] and _group_bytes(parts[-1] + group, sizes) > room:
                parts.append([])
        parts[-1] += group
    return parts


def _predictor_width(model: Model) -> int:
    return hidden_width(model) if model.head is not None else model.vocab_size


def _seed_bytes(layer: Layer, model: Model, config: Config, n_seeds: int, typical: int) -> int:
    """U and V of all seeds at one layer. A gradient has at most as many columns as the seed has tokens."""
    columns = min(config.seed_rank, typical, layer.width, layer.out_features)
    item = torch.promote_types(model.dtype, torch.float32).itemsize
    return n_seeds * columns * (layer.width + layer.out_features) * item
