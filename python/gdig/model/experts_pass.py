"""Fused experts during a pass: their module computes by the code of `gdig.model.experts`, in a block of a `with`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from gdig.errors import LayerError
from gdig.model.batches import Batch
from gdig.model.device import to_device
from gdig.model.experts import Experts, Route, Tap
from gdig.model.routing import Routing, route


@contextmanager
def computed_by_gdig(
    all_experts: Sequence[Experts], batch: Batch, device: torch.device, tap_of: Callable[[Experts], Tap]
) -> Iterator[None]:
    """In the block, compute fused experts row by row of a batch, and let a function see their products.

    Args:
        all_experts: the experts of some blocks. All of a model's chosen experts belong in each pass. So the bits of a
            layer do not depend on the layers that are looked at.
        batch: the batch. Its pads go to no expert.
        device: of the batch.
        tap_of: makes the function that sees the products of some experts.
    """
    if not all_experts:
        yield
        return
    lines, length = batch.shape
    real = to_device(batch.token_mask, device).bool()

    def of_batch(experts: Experts) -> Route:
        def sort(of_slots: torch.Tensor, tokens: torch.Tensor, seen: int) -> Routing:
            if seen != lines * length:
                raise LayerError(
                    f"{experts.name}: its router sees {seen} of the batch's {lines * length} tokens; expected all; "
                    "leave it out with filter_modules"
                )
            return route(of_slots, tokens, experts.count, lines, length, real.to(of_slots.device))

        return sort

    with replaced({experts: partial(call, experts, of_batch(experts), tap_of(experts)) for experts in all_experts}):
        yield


def call(experts: Experts, by: Route, tap: Tap, *arguments: Any, **named: Any) -> torch.Tensor:
    """The forward of a module of experts, computed by gdig (`Experts.forward`)."""
    return experts.forward(arguments, named, by, tap)


@contextmanager
def replaced(forwards: Mapping[Experts, Callable[..., torch.Tensor]]) -> Iterator[None]:
    """In the block, the modules of experts compute by other functions than their own `forward`."""
    # accelerate puts a forward of its own over a module's, and keeps the module's under another name.
    places = {experts: "_old_forward" if "_old_forward" in vars(experts.module) else "forward" for experts in forwards}
    before = {experts: vars(experts.module).get(name) for experts, name in places.items()}
    try:
        for experts, function in forwards.items():
            setattr(experts.module, places[experts], function)
        yield
    finally:
        for experts, name in places.items():
            if before[experts] is None:
                delattr(experts.module, name)
            else:
                setattr(experts.module, name, before[experts])
