"""A linear layer of a model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Expert:
    """The expert that a layer belongs to.

    Attributes:
        matrix: the name that the layer's like in all experts of the block have in common.
        number: of the expert, from 0. count: E, experts of the block.
        slots: how many experts see a token.
        parameter: the parameter of the module with the weights of all experts; "" for an expert in a list of modules.
    """

    matrix: str
    number: int
    count: int
    slots: int
    parameter: str

    @property
    def share(self) -> float:
        """The share of the tokens that an expert sees on average."""
        return self.slots / self.count


@dataclass(frozen=True)
class Layer:
    """A linear layer: y = W x (+ b).

    Attributes:
        name: the module's name in the model; of an expert in a fused module, with the expert's number behind it.
        module: the module, or the fused module.
        in_features: I. out_features: O.
        bias: whether the layer has a bias.
        input_name: the first chosen layer that reads the same tensor (gate and up of one MLP; q, k and v). Default: the
            layer itself.
        device: where the layer computes.
        expert: of a layer that sees only the tokens that a router sends it; None for a layer that sees all.
    """

    name: str
    module: nn.Module
    in_features: int
    out_features: int
    bias: bool
    input_name: str = ""
    device: torch.device = _CPU
    expert: Expert | None = None

    def __post_init__(self) -> None:
        if not self.input_name:
            object.__setattr__(self, "input_name", self.name)

    @property
    def width(self) -> int:
        """J: columns of the layer's gradient, in_features and one more for a bias."""
        return self.in_features + self.bias

    @property
    def weights(self) -> int:
        """O * J, the numbers that the layer multiplies with. A quantized layer stores fewer."""
        return self.out_features * self.width

    @property
    def share(self) -> float:
        """The share of a batch's tokens that the layer sees on average."""
        return 1.0 if self.expert is None else self.expert.share


def as_layer(name: str, module: nn.Module) -> Layer | None:
    """Describe a linear module: nn.Linear and its subclasses, and GPT-2's Conv1D. Return None for any other module."""
    if isinstance(module, nn.Linear):
        return Layer(name, module, module.in_features, module.out_features, module.bias is not None)
    if isinstance(module, Conv1D):
        rows, columns = module.weight.shape
        return Layer(name, module, rows, columns, module.bias is not None)
    return None
