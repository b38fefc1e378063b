"""The linear layers of a model, and the choice among them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from gdig.errors import ModelError

MLP_LAYERS = r"(^|\.)(mlp|feed_forward|feedforward|ffn|fc1|fc2|fc_in|fc_out)(\.|$)"
"""Default filter_modules: the linear layers of the MLP blocks, by the names that transformers gives them."""
LORA_LAYERS = r"\.lora_[AB]\."
"""Default filter_modules of a PEFT adapter: its LoRA matrices."""
PAPER_LLAMA, PAPER_BLOOM = "mlp.down_proj", "mlp.dense_h_to_4h"
"""Layers of the published G-DIG code: every third block's down projection; for BLOOM, each first MLP projection."""

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Layer:
    """A linear layer: y = W x (+ b).

    Attributes:
        name: the module's name in the model.
        module: the module.
        in_features: I. out_features: O.
        bias: whether the layer has a bias.
        input_name: the first chosen layer that reads the same tensor (gate and up of one MLP; q, k and v). Default: the
            layer itself.
        device: where the layer computes.
    """

    name: str
    module: nn.Module
    in_features: int
    out_features: int
    bias: bool
    input_name: str = ""
    device: torch.device = _CPU

    def __post_init__(self) -> None:
        if not self.input_name:
            object.__setattr__(self, "input_name", self.name)

    @property
    def width(self) -> int:
        """J: columns of the layer's gradient, in_features and one more for a bias."""
        return self.in_features + self.bias


def as_layer(name: str, module: nn.Module) -> Layer | None:
    """Describe a linear module: nn.Linear and its subclasses, and GPT-2's Conv1D. Return None for any other module."""
    if isinstance(module, nn.Linear):
        return Layer(name, module, module.in_features, module.out_features, module.bias is not None)
    if isinstance(module, Conv1D):
        rows, columns = module.weight.shape
        return Layer(name, module, rows, columns, module.bias is not None)
    return None


def choose_layers(
    model: nn.Module, pattern: str | None, *, head: nn.Module | None, adapter: bool = False, paper: bool = False
) -> list[Layer]:
    """Return the layers whose names match `pattern`, in the model's order.

    Args:
        model: the model with its submodules.
        pattern: regular expression that is searched for in a name; None: the default for this kind of model.
        head: the output embedding. It runs on labelled positions only, so it cannot be a layer.
        adapter: whether the model carries LoRA matrices, which then are the default.
        paper: whether the default is the layers of the published G-DIG code.

    Raises:
        ModelError: when the model has no linear layers, or no name matches (the message lists the names).
    """
    linears = [layer for name, module in model.named_modules() if (layer := as_layer(name, module))]
    linears = [layer for layer in linears if layer.module is not head]
    if not linears:
        raise ModelError(f"{type(model).__name__}: has no linear layers (nn.Linear or Conv1D) to take gradients of")
    if pattern is None and paper and not adapter:
        return _paper_layers(model, linears)
    pattern = pattern or (LORA_LAYERS if adapter else MLP_LAYERS)
    chosen = [layer for layer in linears if re.search(pattern, layer.name)]
    if not chosen:
        shown = sorted({re.sub(r"\.\d+\.", ".N.", layer.name) for layer in linears})
        raise ModelError(f"filter_modules: {pattern!r} matches no linear layer; there are: {', '.join(shown)}")
    return chosen


def share_inputs(layers: list[Layer], trial: Callable[[], object]) -> list[Layer]:
    """Find the layers that read the same tensor, and each layer's device, with a forward pass: `trial`.

    A layer with a bias and one without do not share an input: the constant input of 1 belongs to it.
    """
    first: dict[tuple[int, bool], str] = {}
    names: dict[str, str] = {}
    devices: dict[str, torch.device] = {}
    seen: list[object] = []  # keeps the tensors alive, so that no two share an id

    def hook(layer: Layer) -> Callable:
        def forward(module: nn.Module, args: tuple, output: torch.Tensor) -> None:
            seen.append(args[0])
            names[layer.name] = first.setdefault((id(args[0]), layer.bias), layer.name)
            devices[layer.name] = output.device  # the input may be on another device

        return forward

    handles = [layer.module.register_forward_hook(hook(layer)) for layer in layers]
    try:
        trial()
    finally:
        for handle in handles:
            handle.remove()
    return [
        replace(layer, input_name=names[layer.name], device=devices[layer.name]) if layer.name in names else layer
        for layer in layers
    ]


def _paper_layers(model: nn.Module, linears: list[Layer]) -> list[Layer]:
    """The layers of the published G-DIG code (see `PAPER_LLAMA`)."""
    name = PAPER_BLOOM if any(layer.name.endswith(PAPER_BLOOM) for layer in linears) else PAPER_LLAMA
    projections = [layer for layer in linears if layer.name.endswith(name)]
    if not projections:
        raise ModelError(
            f"preset paper: {type(model).__name__}: expected {PAPER_LLAMA!r} or {PAPER_BLOOM!r} layers, found neither; "
            "choose layers with filter_modules"
        )
    return projections if name == PAPER_BLOOM else projections[::3]
