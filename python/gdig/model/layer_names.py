"""What a linear layer is, by its name and the classes around it: of which block, of an MLP, a router, an expert."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import nn

_ADAPTER_END = re.compile(r"\.(lora_[AB]|base_layer)(\.|$).*")
_ATTENTION = re.compile(r"\w*(attn|attention)\w*")
_MLP = re.compile(
    r"(\w+_)?mlps?(_block)?|feed_?forward|ffns?|ff|fc\d|fc_in|fc_out|intermediate|output|(\w+_)?experts?"
    r"|dense_(h_to_4h|4h_to_h)"
)
"""A part of the name of an MLP in transformers, and in code that comes with models. `output` is BERT's."""
_MLP_CLASS = re.compile(r"MLP|Mlp|FFN|FeedForward")
_GATE = re.compile(r"(\w+_)?gate")
_EXPERT = re.compile(r"(^|\.)\w*experts?\.(?=\d)")


def block_of(name: str) -> str | None:
    """The block that a layer belongs to: its name up to the first number, as in "model.layers.3".

    None when the layer is in no numbered block. A layer that itself is numbered, as in "projections.0", is in none.
    """
    words = _plain(name).split(".")
    number = next((i for i, word in enumerate(words[:-1]) if word.isdigit()), None)
    return None if number is None else ".".join(words[: number + 1])


def is_mlp(name: str, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a layer belongs to the MLP of a block, which may be the expert that all tokens share.

    Args:
        name: of the layer.
        modules: all modules by name.
    """
    name = _plain(name)
    inside = len(block_of(name) or "")
    words = name.split(".")
    if in_attention(name):
        return False
    if any(_MLP.fullmatch(word) for word in words):
        return True
    parents = [name[:end] for end in range(inside + 1, len(name)) if name[end] == "."]
    return any(_MLP_CLASS.search(type(modules[parent]).__name__) for parent in parents)


def is_router(name: str, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a layer decides which experts a token goes to, or how much an expert counts.

    A gate is a router beside experts: modules of that name, a list of modules, or weights of three dimensions.
    """
    words = name.split(".")
    for i, word in enumerate(words):
        if "router" in word:
            return True
        if _GATE.fullmatch(word):
            parent = modules[".".join(words[:i])]
            siblings = ((child, module) for child, module in parent.named_children() if child != word)
            if has_many_matrices(parent) or any(
                "expert" in child or listed_modules(module) or has_many_matrices(module) for child, module in siblings
            ):
                return True
    return False


def gates_others(name: str, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a module has something in it, or beside it, that by its name is a router."""
    around = [modules[name], modules[name.rpartition(".")[0]]]
    return any("router" in child or _GATE.fullmatch(child) for module in around for child, _ in module.named_children())


def has_many_matrices(module: nn.Module) -> bool:
    """Whether a module has a parameter of three dimensions, as the weights of all experts of a block are."""
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return False
    return any(p.dim() == 3 and min(p.shape) > 1 for p in module.parameters(recurse=False))


def listed_modules(module: nn.Module) -> bool:
    """Whether a module is a list of several modules with linear modules in them, as a list of experts is."""
    if not isinstance(module, nn.ModuleList) or len(module) < 2:
        return False
    return all(any(isinstance(inner, nn.Linear) for inner in member.modules()) for member in module)


def in_attention(name: str) -> bool:
    """Whether a module belongs to the attention of a block, by its name."""
    return any(_ATTENTION.fullmatch(word) for word in name.split("."))


def is_expert(name: str) -> bool:
    """Whether a layer belongs to one of several experts, each of which sees the tokens that a router sends it."""
    return _EXPERT.search(name) is not None


def is_adapter_weight(name: str) -> bool:
    """Whether a module of a PEFT model belongs to the adapter, not to its base model."""
    return re.search(r"\.(lora_\w+|modules_to_save)(\.|$)", name) is not None


def module_in_block(name: str) -> str:
    """The module of a block that a module belongs to, without numbers: "model.layers.N.mlp.experts"."""
    block = block_of(f"{name}.") or ""
    words = name[len(block) :].strip(".").split(".")
    last = next((i for i, word in enumerate(words) if "expert" in word), 0)
    return without_numbers(".".join([block, *words[: last + 1]]).strip("."))


def without_numbers(name: str) -> str:
    """A name with N for each number in it, the same for the like layers of all blocks."""
    return re.sub(r"(^|\.)\d+(?=\.|$)", r"\1N", name)


def _plain(name: str) -> str:
    """The name of the layer that an adapter's matrix or its base layer belongs to."""
    return _ADAPTER_END.sub("", name)
