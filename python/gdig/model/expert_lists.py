"""Experts as lists of modules: which tokens of a batch the rows are that an expert sees.

A block calls an expert with rows that it takes out of the hidden states of all tokens. A trace notes what is taken, and
in which memory the rows lie. So it knows the token of each row of a call, whatever the code of the block looks like.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from gdig.errors import LayerError
from gdig.model.batches import Batch
from gdig.model.device import to_device
from gdig.model.layers import Layer
from gdig.model.routing import Routing, route_alone

ListedTap = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor, Routing], torch.Tensor]
"""A function of the index of a layer, its input [n, I] and output [n, O]; the rows that are no pads, sorted by token:
int64 [R]; and their routing. It returns the output."""

_LISTED = re.compile(r"(?P<list>.*?\w*experts?)\.(?P<number>\d+)(?P<rest>(\..*)?)")
_REMEMBERED = 8
"""How many takings of rows a trace remembers: an expert is called soon after its rows are taken."""
_TAKES = (torch.Tensor.__getitem__, torch.Tensor.index_select, torch.index_select)


class Listed(NamedTuple):
    """Where a layer is in a list of experts, by its name.

    list: the name of the list. number: of the expert. matrix: what the layer's like in all experts have in common.
    """

    list: str
    number: int
    matrix: str

    @property
    def expert(self) -> str:
        """The name of the expert."""
        return f"{self.list}.{self.number}"


def listed(name: str) -> Listed | None:
    """Where a layer is in a list of experts; None for a layer outside of any."""
    match = _LISTED.fullmatch(name)
    if match is None:
        return None
    return Listed(match["list"], int(match["number"]), match["list"] + match["rest"])


@dataclass(frozen=True)
class ListedExpert:
    """An expert of a list.

    Attributes:
        place: its place. module: the expert.
        block: the module around the list, whose input is the hidden states of all tokens.
    """

    place: Listed
    module: nn.Module
    block: nn.Module


def listed_experts(model: nn.Module) -> tuple[ListedExpert, ...]:
    """All experts of a model that are in lists."""
    modules = dict(model.named_modules())
    experts = []
    for name, module in modules.items():
        place = listed(name)
        if place is not None and place.matrix == place.list:
            experts.append(ListedExpert(place, module, modules[place.list.rpartition(".")[0]]))
    return tuple(experts)


@contextmanager
def traced(
    experts: Sequence[ListedExpert], tokens: int, note: Callable[[ListedExpert, torch.Tensor | None], None]
) -> Iterator[None]:
    """In the block, tell `note` of each call of an expert, before it runs.

    Args:
        experts: the experts.
        tokens: B * L of the batch that passes in the block.
        note: gets the expert, and int64 [n], the place in the flattened batch of each row that the expert sees; None
            where the rows were not taken out of the input of the expert's block.
    """
    if not experts:
        yield
        return
    running: list[TokenTrace] = []

    # A backward pass may compute a block again, in another thread. So each call of a block has a trace of its own.
    def begin(module: nn.Module, args: tuple, named: dict[str, Any]) -> None:
        running.append(TokenTrace(_first_tensor(args, named), tokens))
        running[-1].__enter__()

    def end(*_: Any) -> None:
        running.pop().__exit__(None, None, None)

    def call(expert: ListedExpert) -> Callable[[nn.Module, tuple, dict[str, Any]], None]:
        def before(module: nn.Module, args: tuple, named: dict[str, Any]) -> None:
            x = _first_tensor(args, named)
            note(expert, running[-1].tokens_of(x) if running and x is not None else None)

        return before

    handles = []
    for block in {expert.block: None for expert in experts}:
        handles.append(block.register_forward_pre_hook(begin, with_kwargs=True))
        handles.append(block.register_forward_hook(end, always_call=True))
    handles += [expert.module.register_forward_pre_hook(call(expert), with_kwargs=True) for expert in experts]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def tapped(
    experts: Sequence[ListedExpert], layers: Sequence[Layer], batch: Batch, device: torch.device, tap: ListedTap
) -> Iterator[None]:
    """In the block, let a function see what the layers of experts in lists compute of a batch.

    Args:
        experts: the experts of these layers.
        layers: all chosen layers of the model. Those of no list are left alone.
        batch: the batch. The rows of its pads are left out.
        device: of the batch.
        tap: sees inputs and outputs of each layer.
    """
    if not experts:
        yield
        return
    lines, length = batch.shape
    real = to_device(batch.token_mask, device).bool()
    calls: dict[str, tuple[torch.Tensor, Routing]] = {}

    def note(expert: ListedExpert, places: torch.Tensor | None) -> None:
        if places is None:
            raise LayerError(
                f"{expert.place.expert}: its rows were not taken out of the hidden states of all tokens as in the "
                "trial at load time; leave it out with filter_modules"
            )
        calls[expert.place.expert] = route_alone(places, lines, length, real.to(places.device))

    def hook(index: int, expert: str) -> Callable:
        def forward(module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
            return tap(index, args[0], output, *calls[expert])

        return forward

    places = [(index, layer, listed(layer.name)) for index, layer in enumerate(layers) if layer.expert is not None]
    handles = [
        layer.module.register_forward_hook(hook(index, place.expert))
        for index, layer, place in places
        if place is not None
    ]
    try:
        with traced(experts, lines * length, note):
            yield
    finally:
        for handle in handles:
            handle.remove()


class TokenTrace(TorchFunctionMode):
    """In a `with`, notes which tokens the rows of a tensor are.

    Args:
        hidden: the rows of all tokens [..., W], in the order of the batch; None where there are none.
        tokens: T of the batch. Another number of rows is as good as none.
    """

    def __init__(self, hidden: torch.Tensor | None, tokens: int) -> None:
        super().__init__()
        whole = hidden is not None and hidden.is_contiguous() and hidden.shape[:-1].numel() == tokens
        self._all = hidden.detach() if hidden is not None and whole else None
        self._tokens = tokens
        self._taken: deque[tuple[torch.Tensor, torch.Tensor]] = deque(maxlen=_REMEMBERED)

    def tokens_of(self, x: torch.Tensor) -> torch.Tensor | None:
        """The token of each row of x [..., W]: int64 [n]; None where that is not known."""
        n, width = x.shape[:-1].numel(), x.shape[-1]
        for rows, tokens in reversed(self._taken):
            if _same_memory(x, rows):
                first = (x.storage_offset() - rows.storage_offset()) // width
                return tokens[first : first + n]
        if self._all is not None and _same_memory(x, self._all) and n == self._tokens:
            return torch.arange(n, device=x.device)
        return None

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call the function, and note the rows that it takes."""
        result = func(*args, **(kwargs or {}))
        if func in _TAKES and isinstance(result, torch.Tensor) and result.is_contiguous():
            index = _index(func, args, kwargs or {})
            tokens = self.tokens_of(args[0]) if index is not None else None
            if index is not None and tokens is not None and result.shape[-1] == args[0].shape[-1]:
                self._taken.append((result.detach(), tokens[index]))
        return result


def _index(func: Callable, args: tuple, named: Mapping[str, Any]) -> torch.Tensor | None:
    """The rows, by number or by a mask, that a call takes out of its first argument [n, W]; None for another call."""
    if not args or not isinstance(args[0], torch.Tensor) or args[0].dim() != 2:
        return None
    if func is not torch.Tensor.__getitem__:
        dim, index = [*args[1:], *(named[name] for name in ("dim", "index") if name in named)]
        return index if dim in (0, -2) else None
    keys = list(args[1]) if isinstance(args[1], tuple) else [args[1]]
    while keys and keys[0] is None:
        keys.pop(0)
    others = (key for key in keys[1:] if key is not None and key is not Ellipsis)
    if not keys or keys[0] is Ellipsis or isinstance(keys[0], (int, slice)) or any(map(_is_narrow, others)):
        return None
    index = torch.as_tensor(keys[0], device=args[0].device)
    return index if index.dim() == 1 and not index.is_floating_point() else None


def _is_narrow(key: Any) -> bool:
    """Whether an index of a dimension takes less than all of it."""
    return not (isinstance(key, slice) and key == slice(None))


def _first_tensor(args: tuple, named: Mapping[str, Any]) -> torch.Tensor | None:
    return next((x for x in (*args, *named.values()) if isinstance(x, torch.Tensor)), None)


def _same_memory(x: torch.Tensor, rows: torch.Tensor) -> bool:
    """Whether x [..., W] is whole rows of the contiguous `rows` [..., W]."""
    same = x.untyped_storage()._cdata == rows.untyped_storage()._cdata
    return same and x.is_contiguous() and x.shape[-1] == rows.shape[-1]
