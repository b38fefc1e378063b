"""Experts of which gdig cannot take gradients: an error, because scores would miss most of the weights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from torch import nn

from gdig.errors import LayerError
from gdig.model.experts import as_experts
from gdig.model.layer_names import (
    block_of,
    gates_others,
    has_many_matrices,
    in_attention,
    is_adapter_weight,
    listed_modules,
    without_numbers,
)
from gdig.model.layers import Layer, as_layer
from gdig.model.load_trial import Trial

FUSED = "the interface of transformers 5 (gate_up_proj and down_proj with one matrix an expert, not quantized)"
_LISTED = (
    "linear modules in a list named experts, and a block that takes the rows of an expert out of its own input by "
    "numbers, by a mask or by slices"
)


def require_descriptions(
    model: nn.Module, trial: Trial, usable: Sequence[Layer], blocks: Sequence[str], adapter: bool
) -> None:
    """Raise LayerError when a block from the lowest usable layer on has experts that have no description.

    Args:
        model: the model.
        trial: how it calls its modules.
        usable: the layers that can be chosen.
        blocks: the numbered blocks in the order of the trial.
        adapter: whether the model is an adapter. Experts without matrices of it are not trained, and do not count.
    """
    lowest = min((blocks.index(block) for layer in usable if (block := block_of(layer.name)) in blocks), default=0)
    for name, expected in _unknown_experts(model, trial):
        if block_of(f"{name}.") not in blocks[lowest:]:
            continue
        if adapter and not any(is_adapter_weight(inner) for inner, _ in model.get_submodule(name).named_modules()):
            continue
        raise LayerError(
            f"{type(model).__name__}: gdig cannot take gradients of its experts ({without_numbers(name)}): expected "
            f"{expected}; choose layers=attention, or the other layers with filter_modules"
        )


def named_experts(model: nn.Module) -> list[str]:
    """Names of the modules whose parameters are, by their names, the weights of experts that see some tokens only."""
    return [
        name
        for name, module in model.named_modules()
        if re.search(r"(?<!shared_)experts?(\.|$)", name) and any(True for _ in module.parameters(recurse=False))
    ]


def _unknown_experts(model: nn.Module, trial: Trial) -> Iterator[tuple[str, str]]:
    """The name of each module of experts that was called and has no description, and what was expected."""
    named, modules = set(named_experts(model)), dict(model.named_modules())
    for name in sorted(modules, key=lambda name: name not in named):
        module = modules[name]
        if not trial.called(module) or as_layer(name, module) is not None:
            continue
        if name in named:
            if as_experts(name, module) is None or trial.use(module).why_not is not None:
                yield name, f"{FUSED}, and every token in one call"
        elif has_many_matrices(module) and gates_others(name, modules) and not in_attention(name):
            yield name, f"{FUSED}, and every token in one call"
        elif name in trial.lists:
            if not trial.lists[name].traced:
                yield name, _LISTED
        elif listed_modules(module) and gates_others(name, modules) and not in_attention(name):
            linears = (inner for inner in module.modules() if as_layer("", inner) is not None)
            if any(not trial.use(inner).whole for inner in linears):
                yield name, _LISTED
