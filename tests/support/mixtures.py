"""Tiny mixtures of experts, and the gradients of plain autograd at the parameters of three dimensions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from gdig.config.config import Config
from gdig.data.tokens import Example
from gdig.model.causal_model import Model, wrap_model
from gdig.model.layers import Layer
from tests.support.families import tiny_model
from tests.support.tiny_models import without_float32_norms

FAMILIES = ("qwen3_moe", "mixtral", "olmoe", "deepseek_v3", "gpt_oss", "glm4_moe", "llama4_text")


def mixture(
    family: str, dtype: torch.dtype = torch.float64, *, change: Callable[[Any], None] | None = None, **options
) -> tuple[Model, Config]:
    """A model of the family with layers of experts, which by itself computes them in `eager` form; and its options."""
    module = tiny_model(family)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() > 1:  # random weights of the usual size have gradients that are next to nothing
                parameter.normal_(0, 0.3)
            elif "bias" in name:
                parameter.normal_(0, 0.1)
    if hasattr(module, "set_experts_implementation") and family != "llama4_text":
        module.set_experts_implementation("eager")
    if change is not None:
        change(module)
    config = Config.build({"device": "cpu", **options})
    return wrap_model(without_float32_norms(module).to(dtype), config), config


def is_fused(layer: Layer) -> bool:
    """Whether a layer is a part of a parameter with the weights of all experts."""
    return layer.expert is not None and bool(layer.expert.parameter)


def plain_gradients(model: Model, example: Example) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss of an example, and its gradient [O, J] at each layer by plain autograd through the model's own code."""
    parameters: dict[str, torch.Tensor] = {}
    for layer in model.layers:
        expert = layer.expert if is_fused(layer) else None
        names = [expert.parameter, f"{expert.parameter}_bias"] if expert else ["weight", "bias"]
        for name in names[: 1 + layer.bias]:
            parameters[f"{id(layer.module)} {name}"] = getattr(layer.module, name)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    ids = torch.tensor(np.array(example.input_ids))[None].long()
    labels = torch.tensor(np.array(example.labels))[1:].long()
    logits = model.module(input_ids=ids, use_cache=False).logits[0, :-1]
    loss = torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100)
    by_parameter = dict(
        zip(parameters, torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True), strict=True)
    )
    for parameter in parameters.values():
        parameter.requires_grad_(False)
    gradients = {}
    for layer in model.layers:
        expert = layer.expert if is_fused(layer) else None
        weight = by_parameter[f"{id(layer.module)} {expert.parameter if expert else 'weight'}"]
        weight = weight if expert is None else weight[expert.number]
        weight = weight if weight.shape == (layer.out_features, layer.in_features) else weight.T
        if layer.bias:
            bias = by_parameter[f"{id(layer.module)} {expert.parameter + '_bias' if expert else 'bias'}"]
            bias = bias if expert is None else bias[expert.number]
            weight = torch.cat([weight, bias[:, None]], dim=1)
        gradients[layer.name] = weight
    return float(loss.detach()), gradients


def captured_tokens(model: Model, example: Example) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Inputs [T, J] and output gradients [T, O] of each expert's own tokens: token by token, by plain autograd.

    All layers of the model are of fused experts without biases.
    """
    seen: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {layer.name: [] for layer in model.layers}

    def slow(name: str, module: torch.nn.Module):
        def product(parameter: str, expert: int, x: torch.Tensor) -> torch.Tensor:
            y = getattr(module, parameter)[expert] @ x
            y.retain_grad()
            seen[f"{name}.{parameter}.{expert}"].append((x.detach(), y))
            return y

        def forward(hidden: torch.Tensor, experts: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
            lines = []
            for x, chosen, of_token in zip(hidden, experts.tolist(), weights, strict=True):
                blocks = []
                for expert, weight in zip(chosen, of_token, strict=True):
                    inner = module._apply_gate(product("gate_up_proj", expert, x)[None])[0]
                    blocks.append(weight * product("down_proj", expert, inner))
                lines.append(sum(blocks))
            return torch.stack(lines)

        return forward

    names = {layer.module: layer.name.rsplit(".", 2)[0] for layer in model.layers}
    for parameter in model.module.parameters():
        parameter.requires_grad_(True)
    for module, name in names.items():
        module.forward = slow(name, module)
    ids = torch.tensor(np.array(example.input_ids))[None].long()
    labels = torch.tensor(np.array(example.labels))[1:].long()
    logits = model.module(input_ids=ids, use_cache=False).logits[0, :-1]
    torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100).backward()
    model.module.zero_grad()
    for module in names:
        del module.forward
    for parameter in model.module.parameters():
        parameter.requires_grad_(False)
    return {layer.name: _stacked(layer, seen[layer.name]) for layer in model.layers}


def _stacked(
    layer: Layer, pairs: list[tuple[torch.Tensor, torch.Tensor]]
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    a, d = ([x for x, _ in pairs], [y.grad for _, y in pairs])
    empty = torch.zeros(0, layer.in_features).double(), torch.zeros(0, layer.out_features).double()
    return (torch.stack(a), torch.stack(d)) if pairs else empty  # type: ignore[arg-type]
