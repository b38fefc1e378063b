"""Tiny mixtures of experts, and the gradients of plain autograd at the parameters of three dimensions."""

from __future__ import annotations

import numpy as np
import torch

from gdig.config.config import Config
from gdig.data.tokens import Example
from gdig.model.causal_model import Model, wrap_model
from tests.support.families import tiny_model
from tests.support.tiny_models import without_float32_norms

FAMILIES = ("qwen3_moe", "mixtral", "olmoe", "deepseek_v3", "gpt_oss", "glm4_moe", "llama4_text")


def mixture(family: str, dtype: torch.dtype = torch.float64, **options) -> Model:
    """A model of the family with layers of experts, and the family's own computation of experts in `eager` form."""
    module = tiny_model(family)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() > 1:  # random weights of the usual size have gradients that are next to nothing
                parameter.normal_(0, 0.3)
            elif "bias" in name:
                parameter.normal_(0, 0.1)
    if hasattr(module, "set_experts_implementation") and family != "llama4_text":
        module.set_experts_implementation("eager")
    config = Config.build({"device": "cpu", **options})
    return wrap_model(without_float32_norms(module).to(dtype), config)


def plain_gradients(model: Model, example: Example) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss of an example, and its gradient [O, J] at each layer by plain autograd through the model's own code."""
    parameters: dict[str, torch.Tensor] = {}
    for layer in model.layers:
        expert = layer.expert
        names = [expert.parameter, f"{expert.parameter}_bias"] if expert is not None else ["weight", "bias"]
        for name in names[: 1 + layer.bias]:
            parameters[f"{id(layer.module)} {name}"] = getattr(layer.module, name)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    ids = torch.tensor(np.array(example.input_ids))[None].long()
    labels = torch.tensor(np.array(example.labels))[1:].long()
    logits = model.module(input_ids=ids, use_cache=False).logits[0, :-1]
    loss = torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100)
    found = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
    for parameter in parameters.values():
        parameter.requires_grad_(False)
    gradients = {}
    for layer in model.layers:
        expert = layer.expert
        weight = found[f"{id(layer.module)} {expert.parameter if expert else 'weight'}"]
        weight = weight if expert is None else weight[expert.number]
        weight = weight if weight.shape == (layer.out_features, layer.in_features) else weight.T
        if layer.bias:
            bias = found[f"{id(layer.module)} {expert.parameter + '_bias' if expert else 'bias'}"]
            bias = bias if expert is None else bias[expert.number]
            weight = torch.cat([weight, bias[:, None]], dim=1)
        gradients[layer.name] = weight
    return float(loss.detach()), gradients
