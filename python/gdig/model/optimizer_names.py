"""The names of an optimizer's parameters, from the order in which a training library numbers them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gdig.errors import OptimizerStateError

_NO_DECAY = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)", re.IGNORECASE)
_WRAPPERS = re.compile(r"^(module\.|_orig_mod\.|base_model\.model\.)+")

NamedParameter = tuple[str, nn.Parameter]


def canonical(name: str) -> str:
    """A parameter's name without what wrappers (DDP, torch.compile, PEFT) put before it or into it."""
    return _WRAPPERS.sub("", name).replace("._orig_mod.", ".").replace(".default.", ".")


def parameter_names(
    file: Path, groups: Sequence[dict], ids: list[list[Any]], states: Mapping[Any, dict], module: nn.Module
) -> list[list[str]]:
    """The names of the parameters of each group.

    Args:
        file: the file of the state, for messages.
        groups: the optimizer's groups.
        ids: the names or numbers of each group's parameters.
        states: the state of each parameter, by its name or number.
        module: the model that was trained.

    Raises:
        ModelError: when no known order of the model's parameters fits.
    """
    if all(isinstance(number, str) for numbers in ids for number in numbers):
        return [[canonical(number) for number in numbers] for numbers in ids]
    if all("param_names" in group for group in groups):
        return [[canonical(name) for name in group["param_names"]] for group in groups]
    shapes = [[tuple(states.get(n, {}).get("exp_avg", torch.empty(0)).shape) for n in numbers] for numbers in ids]
    nearest = ""
    # Two rules that fit give the same names: where they differ, one has a matrix and the other a vector.
    for rule, grouping in _groupings(module):
        while len(grouping) > len(ids) and not grouping[-1]:
            grouping = grouping[:-1]
        if [len(group) for group in grouping] != [len(numbers) for numbers in ids]:
            continue
        wrong = [
            (name, list(shape), list(parameter.shape))
            for group_shapes, group in zip(shapes, grouping, strict=True)
            for shape, (name, parameter) in zip(group_shapes, group, strict=True)
            if shape != tuple(parameter.shape)
        ]
        if wrong:
            name, got, expected = wrong[0]
            nearest = f"; grouped {rule}, {name} would have moments of shape {got}, its own is {expected}"
            continue
        return [[canonical(name) for name, _ in group] for group in grouping]
    sizes = ", ".join(str(len(numbers)) for numbers in ids)
    raise OptimizerStateError(
        f"{file}: numbers its parameters (groups of {sizes}), and they do not fit this model{nearest}. If the file is "
        "of this model, write its moments by name with gdig.model.optimizer.save_moments"
    )


def _groupings(module: nn.Module) -> Iterator[tuple[str, list[list[NamedParameter]]]]:
    """How libraries group the trained parameters: those of an adapter if there is one, else all."""
    parameters = list(module.named_parameters())
    adapter = [(name, p) for name, p in parameters if "lora_" in name or ".modules_to_save." in name]
    trained = adapter or parameters
    of_layer_norms = {
        f"{parent}.{name}" if parent else name
        for parent, child in module.named_modules()
        if isinstance(child, nn.LayerNorm)
        for name, _ in child.named_parameters(recurse=False)
    }

    def split(decays: Callable[[str, nn.Parameter], bool]) -> list[list[NamedParameter]]:
        return [[x for x in trained if decays(*x)], [x for x in trained if not decays(*x)]]

    yield "as Trainer does", split(lambda name, _: name not in of_layer_norms and not _NO_DECAY.search(name))
    yield "by number of dimensions", split(lambda _, p: p.dim() >= 2)
    yield "all in one", [trained]
