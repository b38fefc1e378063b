"""A loaded causal language model: frozen, with its parts and layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from gdig.config.config import Config
from gdig.errors import LayerError, ModelError
from gdig.model.choice import choose_layers
from gdig.model.compiled import CompiledPass
from gdig.model.coverage import Coverage, measure_coverage
from gdig.model.expert_lists import ListedExpert, listed, listed_experts
from gdig.model.experts import Experts, chosen_experts
from gdig.model.gradient_checkpointing import (
    enable_gradient_checkpointing,
    has_gradient_checkpointing,
    require_gradient_checkpointing,
)
from gdig.model.layers import Layer
from gdig.model.load_trial import try_model
from gdig.model.masks import one_sequence_a_line
from gdig.model.rotary import rotary_switch
from gdig.model.states import forget_states
from gdig.nouns import counted

Outputs = tuple[torch.Tensor, tuple[torch.Tensor, ...]]
"""The input of the head [B, L, H] (or the logits [B, L, V]), and the hidden states [B, L, H] of some layers."""


@dataclass(frozen=True)
class Model:
    """A frozen causal language model.

    Attributes:
        module: the whole model; an adapter's base model with the adapter in it.
        base: gives the last hidden states.
        head: gives the logits of some hidden states. None when the model does more between the two than a matrix
            product (a soft cap, a scale); then the logits come from the whole model.
        layers: the chosen layers.
        device: where the input goes.
        dtype: of the weights.
        window: the longest input in tokens; None when the model states no limit.
        vocab_size: words of the vocabulary.
        rotary_switch: the longest batch with the rotary factors for short texts (`model.rotary`); None: all.
        experts: the modules of fused experts that have layers. listed: the experts of lists that have layers.
        coverage: how many of the weights the layers have.
        compiled: the compiled pass, when the option torch_compile is on.
        hidden_layers: how many layers `with_states` returns, from the last one down.
    """

    module: nn.Module
    base: nn.Module
    head: nn.Module | None
    layers: list[Layer]
    device: torch.device
    dtype: torch.dtype
    window: int | None
    vocab_size: int
    coverage: Coverage
    compiled: CompiledPass | None = None
    hidden_layers: int = 1
    rotary_switch: int | None = None
    experts: tuple[Experts, ...] = ()
    listed: tuple[ListedExpert, ...] = ()

    def describe(self) -> str:
        """The model in words: class, dtype, device, chosen layers, and their share of the weights."""
        return (
            f"{type(self.module).__name__}, {str(self.dtype).removeprefix('torch.')} on {self.device}, "
            f"{counted(len(self.layers), 'layer')} ({self.layers[0].name} .. {self.layers[-1].name}) with "
            f"{self.coverage.share:.0%} of the weights beside the embeddings"
        )

    def hidden(self, ids: torch.Tensor) -> torch.Tensor:
        """Last hidden states [B, L, H] of ids [B, L]; without `head`, the logits [B, L, V]."""
        return self._outputs(ids, 0)[0]

    def with_states(self, ids: torch.Tensor) -> Outputs:
        """What `hidden` returns, and the hidden states of the last `hidden_layers` layers, the last layer last.

        The states [B, L, H] of the last layer are those after the final norm; those of lower layers are the blocks'.
        """
        return self._outputs(ids, self.hidden_layers)

    def _outputs(self, ids: torch.Tensor, layers: int) -> Outputs:
        with one_sequence_a_line():
            return _outputs(self.base if self.head is not None else self.module, self.head is not None, layers, ids)

    def save_memory(self) -> bool:
        """Turn gradient checkpointing on, and return whether that changes anything.

        It changes nothing when it is on already, when the model's blocks do not offer it, and in a compiled pass.
        """
        if self.compiled is not None:
            return False
        return not has_gradient_checkpointing(self.module) and enable_gradient_checkpointing(self.module)


def wrap_model(module: Any, config: Config, *, adapter: bool = False) -> Model:
    """Freeze a loaded model, and find its parts. The module keeps its device and dtype.

    Raises:
        ModelError: when the module has no base and head, or no layer matches.
    """
    module.eval().requires_grad_(False)
    forget_states(module)
    if config.gradient_checkpointing:
        require_gradient_checkpointing(module)
    inner = module.get_base_model() if adapter else module
    head = inner.get_output_embeddings()
    base = inner.base_model
    if base is inner:  # Llama 4 gives its base another name than it says
        base = getattr(inner, "model", inner)
    if head is None or base is inner:
        raise ModelError(f"{type(inner).__name__}: expected a causal language model with a base and an output head")
    trial = try_model(inner, base, head)
    layers = choose_layers(
        module,
        trial,
        head=head,
        layers=config.layers,
        filter_modules=config.filter_modules,
        adapter=adapter,
        paper=config.preset == "paper",
    )
    plain = trial.plain_head
    device = inner.get_input_embeddings().weight.device
    compiled = None
    experts = chosen_experts(module, layers)
    if any(layer.expert is not None for layer in layers):
        _require_without(config, layers)
    if config.torch_compile:
        outputs = partial(_outputs, base if plain else inner, plain, config.hidden_layers)
        compiled = CompiledPass(outputs, layers, device)
    return Model(
        module=inner,
        base=base,
        head=head if plain else None,
        layers=layers,
        device=device,
        dtype=head.weight.dtype,
        window=getattr(inner.config.get_text_config(), "max_position_embeddings", None),
        vocab_size=inner.get_input_embeddings().weight.shape[0],
        coverage=measure_coverage(module, layers, trial, head, adapter),
        compiled=compiled,
        hidden_layers=config.hidden_layers,
        rotary_switch=rotary_switch(inner.config.get_text_config()),
        experts=experts,
        listed=_chosen_of_lists(module, layers),
    )


def _chosen_of_lists(model: nn.Module, layers: Sequence[Layer]) -> tuple[ListedExpert, ...]:
    """The experts of lists that some layers are of."""
    places = (listed(layer.name) for layer in layers if layer.expert is not None and not layer.expert.parameter)
    names = {place.expert for place in places if place is not None}
    return tuple(expert for expert in listed_experts(model) if expert.place.expert in names) if names else ()


def _require_without(config: Config, layers: Sequence[Layer]) -> None:
    """Raise LayerError for an option that layers of experts do not take."""
    name = next(layer.name for layer in layers if layer.expert is not None)
    options = {"inversion=cg": config.inversion == "cg", "torch_compile": config.torch_compile}
    for option, asked in options.items():
        if asked:
            raise LayerError(
                f"{option}: takes layers that see every token, got {name}; leave the option out, or choose the other "
                "layers with filter_modules"
            )


def _outputs(module: Any, is_base: bool, layers: int, ids: torch.Tensor) -> Outputs:
    """The output for ids [B, L] of a base model or a whole model, and the states of the last `layers` layers."""
    # All blocks' states stay in memory when they are asked for. A base model's last states need no asking.
    asked = {"output_hidden_states": True} if layers > int(is_base) else {}
    output = module(input_ids=ids, use_cache=False, **asked)
    top = output.last_hidden_state if is_base else output.logits
    if not asked:
        return top, (top,) if layers else ()
    if len(output.hidden_states) < layers:
        raise ModelError(f"hidden_layers={layers}: expected at most {len(output.hidden_states)}, as the model has")
    states = tuple(output.hidden_states[-layers:])
    if any(state.dim() != 3 for state in states):
        raise ModelError(f"hidden_layers={layers}: expected 1, because the model's blocks have several states a token")
    return top, states
