"""What a pass of the model holds for each token, from shapes alone: a forward pass without numbers counts it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from gdig.model.causal_model import Model
from gdig.model.expert_lists import listed
from gdig.model.experts import Experts, Matrix
from gdig.model.experts import Tap as ExpertTap
from gdig.model.experts_pass import call, replaced
from gdig.model.gradient_checkpointing import blocks_to_recompute, has_gradient_checkpointing
from gdig.model.head import head_bytes
from gdig.model.layers import Layer, as_layer
from gdig.model.routing import Routing, route_to_first
from gdig.model.tap import Tap
from gdig.model.without_numbers import no_autocast_on_meta

_LENGTH = 64
"""Tokens of the line that is counted. Attention that keeps its weights costs more on longer lines; torch's fused
attention, which transformers takes by default, does not."""
_CPU_WASTE = 1.4
"""What the CPU's allocator takes for each byte of a large batch's tensors: measured 1.1 to 1.4 (LOG.md)."""
_WORK = 4
"""Tensors of the widest layer's input and output that the backward pass and the sinks hold at one moment beside what
the graph keeps: the gradient that arrives, the one that leaves, a copy in the dtype of the sums, and its rotation."""


@dataclass(frozen=True)
class TokenMemory:
    """Bytes that a forward and backward pass holds.

    Attributes:
        graph: for each chosen layer, bytes a token that the graph keeps from this layer's output up to the head. A pass
            over some of the layers keeps what its lowest layer keeps.
        work: bytes a token of what exists for a moment.
        head: bytes of the head's blocks of logits; or bytes a token (`head_by_token`) where the whole model makes
            them.
        waste: what the allocator takes for each byte.
    """

    graph: tuple[int, ...]
    work: int
    head: int
    head_by_token: int
    waste: float = 1.0

    @classmethod
    def count(cls, model: Model) -> TokenMemory:
        """Count for a model on any device, "meta" too. A model with weights passes one line of 64 tokens."""
        graph = _graph_bytes(model)
        width = torch.promote_types(model.dtype, torch.float32).itemsize
        slots = _slots(model)
        work = _WORK * max(slots.get(x.module, 1) * (x.width + x.out_features) for x in model.layers) * width
        head, by_token = head_bytes(model)
        return cls(graph, work, head, by_token, _CPU_WASTE if model.device.type == "cpu" else 1.0)

    def a_token(self, lowest_layer: int = 0) -> int:
        """Bytes for one token more in a batch, in a pass whose lowest layer has this index."""
        return max(1, int(self.waste * (self.graph[lowest_layer] + self.work + self.head_by_token)))

    def tokens_within(self, size: int, lowest_layer: int = 0) -> int:
        """How many tokens `size` bytes hold."""
        return max(0, (size - self.head) // self.a_token(lowest_layer))

    def of_batch(self, tokens: int, lowest_layer: int = 0) -> int:
        """Bytes for a batch."""
        return self.head + tokens * self.a_token(lowest_layer)


def _slots(model: Model) -> dict[nn.Module, int]:
    """How many experts see a token, by the module of fused experts."""
    return {
        layer.module: max(1, layer.expert.slots)
        for layer in model.layers
        if layer.expert is not None and layer.expert.parameter
    }


def weight_bytes(module: nn.Module) -> int:
    """Bytes of a module's weights and buffers; weights that two modules share count once."""
    tensors = [*module.parameters(), *module.buffers()]
    return sum({id(x): x.numel() * x.element_size() for x in tensors}.values())


def _graph_bytes(model: Model) -> tuple[int, ...]:
    """The tensors that a graph keeps, by a hook that sees each of them. The storage of a view counts once."""
    if has_gradient_checkpointing(model.module):
        return (gradient_checkpointing_bytes(model),) * len(model.layers)
    own = {_address(x) for x in (*model.module.parameters(), *model.module.buffers())}
    length = min(_LENGTH, model.window or _LENGTH)
    ids = torch.zeros(1, length, dtype=torch.long, device=model.device)
    storages: dict[int, torch.UntypedStorage] = {}  # holds them, so that no two have one address
    total, before = 0, [0] * len(model.layers)

    def pack(x: torch.Tensor) -> torch.Tensor:
        nonlocal total
        if (address := _address(x)) not in own and address not in storages:
            storages[address] = x.untyped_storage()
            total += storages[address].nbytes()
        return x

    of_matrix: dict[str, list[int]] = {}  # the first expert that is called begins all of its matrix
    for index, layer in enumerate(model.layers):
        of_matrix.setdefault(_matrix(layer), []).append(index)
    begun: set[str] = set()

    def begin(matrix: str) -> None:
        if matrix not in begun:
            begun.add(matrix)
            for index in of_matrix[matrix]:
                before[index] = total

    def hook(matrix: str) -> Callable:
        def forward(layer: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
            begin(matrix)
            anchor = torch.zeros((), device=output.device, requires_grad=True)
            return Tap.apply(output, args[0].detach(), anchor, None)

        return forward

    def tap_of(experts: Experts) -> ExpertTap:
        def tap(matrix: Matrix, a: torch.Tensor, y: torch.Tensor, routing: Routing) -> torch.Tensor:
            name = experts.name_of(matrix)
            if name not in of_matrix:
                return y
            begin(name)
            return Tap.apply(y, a.detach(), torch.zeros((), device=y.device, requires_grad=True), None)

        return tap

    def enter(matrices: Sequence[str]) -> Callable:
        def forward(block: nn.Module, args: tuple, named: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
            for matrix in matrices:
                begin(matrix)

            def tapped(x: Any) -> Any:
                if not isinstance(x, torch.Tensor) or not x.is_floating_point():
                    return x
                return Tap.apply(x, x.detach(), torch.zeros((), device=x.device, requires_grad=True), None)

            return tuple(map(tapped, args)), {name: tapped(x) for name, x in named.items()}

        return forward

    with ExitStack() as stack:
        for block, matrices in _partly_chosen(model).items():
            stack.callback(block.register_forward_pre_hook(enter(matrices), with_kwargs=True).remove)
        for layer in model.layers:
            if layer.expert is None or not layer.expert.parameter:
                stack.callback(layer.module.register_forward_hook(hook(_matrix(layer))).remove)
        slots = _slots(model)
        forwards = {
            experts: partial(call, experts, partial(route_to_first, slots=slots[experts.module]), tap_of(experts))
            for experts in model.experts
        }
        stack.enter_context(replaced(forwards))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x))
        if model.device.type == "meta":
            module = model.base if model.head is not None else model.module
            stack.enter_context(no_autocast_on_meta())
            fake = stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
            weights = dict(module.named_parameters()) | dict(module.named_buffers())
            weights = {name: fake.from_tensor(x) for name, x in weights.items()}
            own |= {_address(x) for x in weights.values()}
            functional_call(module, weights, kwargs={"input_ids": ids, "use_cache": False})
        else:
            model.hidden(ids)
    return tuple(-(-(total - start) // length) for start in before)


def _partly_chosen(model: Model) -> dict[nn.Module, list[str]]:
    """The blocks of lists of which some experts alone are chosen, and the matrices of these.

    Equal tokens go to the same experts, which need not be among the chosen. So the graph begins at the block's input:
    then it keeps what any experts keep of a token, which is the most that those can keep.
    """
    chosen: dict[str, set[int]] = {}
    matrices: dict[str, list[str]] = {}
    for layer in model.layers:
        place = listed(layer.name) if layer.expert is not None and not layer.expert.parameter else None
        if place is not None and layer.expert is not None:
            chosen.setdefault(place.list, set()).add(place.number)
            if layer.expert.matrix not in matrices.setdefault(place.list, []):
                matrices[place.list].append(layer.expert.matrix)
    counts = {x.expert.matrix: x.expert.count for x in model.layers if x.expert is not None}
    partly = {name for name, numbers in chosen.items() if len(numbers) < counts[matrices[name][0]]}
    return {expert.block: matrices[expert.place.list] for expert in model.listed if expert.place.list in partly}


def _matrix(layer: Layer) -> str:
    """The name of a layer; of an expert's, that of its matrix."""
    return layer.name if layer.expert is None else layer.expert.matrix


def gradient_checkpointing_bytes(model: Model) -> int:
    """Bytes a token that a graph keeps with gradient checkpointing: the input of each block, and one block in full.

    A block keeps about three times what its linear layers read and write (2.3 times in Llama).
    """
    blocks, slots = blocks_to_recompute(model.module), _slots(model)
    of_experts = {
        experts.module: slots[experts.module] * sum(m.in_features + m.out_features for m in experts.matrices)
        for experts in model.experts
        if experts.module in slots
    }
    shares = {layer.module: layer.share for layer in model.layers if layer.expert is not None}
    sizes = [
        sum(
            math.ceil(shares.get(m, 1) * (layer.in_features + layer.out_features))
            for m in block.modules()
            if (layer := as_layer("", m))
        )
        + sum(of_experts.get(m, 0) for m in block.modules())
        for block in blocks
    ]
    return (len(blocks) * hidden_width(model) + 3 * max(sizes, default=0)) * model.dtype.itemsize


def hidden_width(model: Model) -> int:
    """H: the width of the hidden states."""
    embeddings: Any = model.module.get_input_embeddings()  # type: ignore[operator]
    return int(embeddings.weight.shape[1])


def _address(x: torch.Tensor) -> int:
    return x.untyped_storage()._cdata
