"""The choice among a model's linear layers, by the options `layers` and `filter_modules`."""

from __future__ import annotations

import re
from dataclasses import replace

from torch import nn

from gdig.config.layer_choice import default_layers, parse_layers
from gdig.errors import LayerError
from gdig.model.expert_lists import listed
from gdig.model.experts import as_experts
from gdig.model.layer_names import block_of, is_expert, is_mlp, is_router, without_numbers
from gdig.model.layers import Expert, Layer, as_layer
from gdig.model.load_trial import Trial
from gdig.model.unknown_experts import FUSED, named_experts, require_descriptions
from gdig.patterns import PatternError, search

PAPER_LLAMA, PAPER_BLOOM = "mlp.down_proj", "mlp.dense_h_to_4h"
"""Layers of the published G-DIG code: every third block's down projection; for BLOOM, each first MLP projection."""

_LORA = re.compile(r"\.lora_[AB]\.")
_LORA_OF_ALL_EXPERTS = re.compile(r"experts?(\.base_layer)*\.lora_[AB]\.")


def choose_layers(
    model: nn.Module,
    trial: Trial,
    *,
    head: nn.Module | None,
    layers: str | None = None,
    filter_modules: str | None = None,
    adapter: bool = False,
    paper: bool = False,
) -> list[Layer]:
    """Return the chosen layers, in the model's order.

    Args:
        model: the model with its submodules.
        trial: how the model calls them.
        head: the output embedding. It runs on labelled positions only, so nothing in it can be a layer.
        layers: a value of the option `layers`; it chooses among the layers of the model's blocks that have gradients of
            single examples.
        filter_modules: regular expression that is searched for in a name. With `layers`, both have to choose a layer;
            with neither, the choice is the default one.
        adapter: whether the model is an adapter. Then `layers` chooses among the LoRA matrices.
        paper: whether the default is the layers of the published G-DIG code.

    Raises:
        ModelError: when the model has no linear layers, or none is chosen (the message lists the names), or when the
            search takes too long.
    """
    linears = _text_layers(model, trial, head)
    if filter_modules is None and layers is None and paper and not adapter:
        return _as_called(_paper_layers(model, linears), trial)
    chosen = linears
    if filter_modules is not None:
        try:
            (matched,) = map(set, search([filter_modules], [layer.name for layer in linears]))
        except PatternError as error:
            raise LayerError(f"filter_modules={filter_modules!r}: {error}") from None
        chosen = [layer for layer in chosen if layer.name in matched]
        if not chosen:
            raise LayerError(
                f"filter_modules: {filter_modules!r} matches no linear layer; there are: {_shown(linears)}"
            )
    if layers is not None or filter_modules is None:
        names = _names_by_choice(model, linears, trial, layers, adapter)
        chosen = [layer for layer in chosen if layer.name in names]
        if not chosen:
            raise LayerError(
                f"layers={layers!r} and filter_modules={filter_modules!r} choose no common layer; leave one of the two "
                "out"
            )
    return _as_called(chosen, trial)


def _text_layers(model: nn.Module, trial: Trial, head: nn.Module | None) -> list[Layer]:
    """The linear layers outside the head, and outside the parts of the model that text does not reach."""
    skipped = set(head.modules()) if head is not None else set()
    for module in unused_modules(model, trial):
        skipped.update(module.modules())
    linears = [layer for layer in all_layers(model, trial) if layer.module not in skipped]
    if not linears:
        raise LayerError(
            f"{type(model).__name__}: has no linear layers (nn.Linear or Conv1D) to take gradients of; "
            "--no-gradients serves methods that need none"
        )
    return linears


def all_layers(model: nn.Module, trial: Trial) -> list[Layer]:
    """The linear layers of a model, those of experts among them."""
    layers = []
    for name, module in model.named_modules():
        if (layer := as_layer(name, module)) is not None:
            layers.append(_in_list(layer, trial))
        elif (experts := as_experts(name, module)) is not None:
            layers += experts.layers(trial.use(module).slots)
    return layers


def _in_list(layer: Layer, trial: Trial) -> Layer:
    """The layer, as one of an expert where it is in a list of experts whose calls the trial understood."""
    place = listed(layer.name)
    use = trial.lists.get(place.list) if place is not None else None
    if place is None or use is None or not use.traced:
        return layer
    expert = Expert(place.matrix, place.number, use.count, use.slots, "")
    return replace(layer, expert=expert, device=layer.module.weight.device)  # type: ignore[arg-type]


def unused_modules(model: nn.Module, trial: Trial) -> list[nn.Module]:
    """The parts of the model that text does not reach, such as an image encoder. An expert is none, nor is a layer."""
    unused = []
    pending = [("", model)]
    while pending:
        name, module = pending.pop()
        for child_name, child in module.named_children():
            path = f"{name}.{child_name}".strip(".")
            if as_layer(path, child) or isinstance(child, nn.Embedding):
                continue
            if block_of(f"{path}.") and not any(as_layer("", inner) for inner in child.modules()):
                continue  # the weights may be read without a call, as those of Mamba's convolution are
            if trial.called(child) or "expert" in path:
                pending.append((path, child))
            else:
                unused.append(child)
    return unused


def _names_by_choice(
    model: nn.Module, linears: list[Layer], trial: Trial, layers: str | None, adapter: bool
) -> set[str]:
    """The names of the layers that the option `layers`, or its default, chooses.

    The default counts the blocks that have layers to choose. Those of a model without MLPs (Mamba) are all layers.
    """
    modules = dict(model.named_modules())
    choice = default_layers(adapter) if layers is None else parse_layers(layers)
    candidates = [
        layer for layer in linears if (_LORA.search(layer.name) or not adapter) and not is_router(layer.name, modules)
    ]
    order = blocks = block_order(linears, trial)
    if order:
        candidates = [layer for layer in candidates if block_of(layer.name) in order]
    elif layers is not None and choice.upper < 1:
        raise LayerError(
            f"layers={layers!r}: {type(model).__name__} has no numbered blocks; choose with filter_modules"
        )
    mlps = {layer.name for layer in candidates if is_mlp(layer.name, modules)}
    kind = choice.kind if layers is not None or mlps or named_experts(model) else "all"
    of_kind = [layer for layer in candidates if kind == "all" or (layer.name in mlps) == (kind == "mlp")]
    usable = [layer for layer in of_kind if _why_not(layer, trial) is None]
    if layers is None:
        with_layers = {block_of(layer.name) for layer in usable}
        order = [block for block in order if block in with_layers]
    if order:
        upper = set(order[len(order) - choice.n_upper(len(order)) :])
        of_kind, usable = ([x for x in group if block_of(x.name) in upper] for group in (of_kind, usable))
    if kind != "attention":
        require_descriptions(model, trial, usable, blocks, adapter)
    if not usable:
        raise LayerError(_nothing_chosen(model, linears, of_kind, trial, layers or choice.kind, adapter))
    return {layer.name for layer in usable}


def _why_not(layer: Layer, trial: Trial) -> str | None:
    """The reason why gradients of an example cannot be taken at a layer; None where they can."""
    if layer.expert is None and is_expert(layer.name):
        return "sees some tokens only"
    if layer.expert is not None and not layer.expert.parameter:  # the trial calls some of the experts
        return None if trial.use(layer.module).linear else "computes more than W x"
    reason = trial.use(layer.module).why_not
    if reason is not None and _LORA_OF_ALL_EXPERTS.search(layer.name):
        return (
            "is multiplied into the weights of all experts before any token passes; merge the adapter into its base "
            "model (PeftModel.merge_and_unload)"
        )
    return reason


def block_order(linears: list[Layer], trial: Trial) -> list[str]:
    """The numbered blocks in the order in which the trial called them."""
    first: dict[str, int] = {}
    for layer in linears:
        block = block_of(layer.name)
        if block is not None and layer.module in trial.order:
            first[block] = min(trial.order[layer.module], first.get(block, len(trial.order)))
    return sorted(first, key=lambda block: first[block])


def _nothing_chosen(
    model: nn.Module, linears: list[Layer], of_kind: list[Layer], trial: Trial, layers: str, adapter: bool
) -> str:
    """Say why the option `layers` chooses none of the layers `of_kind`, and what does."""
    name = type(model).__name__
    if adapter and not any(_LORA.search(layer.name) for layer in linears):
        return (
            f"{name}: expected an adapter with LoRA matrices in the blocks, found none; merge the adapter into its "
            "base model (PeftModel.merge_and_unload), or choose layers with filter_modules"
        )
    if of_kind:
        reason = _why_not(of_kind[0], trial)
        return (
            f"layers={layers}: no layer of {name} that is chosen has gradients of single examples: "
            f"{without_numbers(of_kind[0].name)} {reason}; choose other layers, such as layers=attention"
        )
    if experts := named_experts(model):
        shown = ", ".join(sorted({without_numbers(expert) for expert in experts})[:3])
        return (
            f"layers={layers}: the MLPs of {name} are experts that see some tokens only ({shown}), of which gdig "
            f"cannot take gradients: expected experts with {FUSED}; choose layers=attention"
        )
    return f"layers={layers}: chooses no linear layer of {name}; there are: {_shown(linears)}"


def _shown(linears: list[Layer]) -> str:
    return ", ".join(sorted({without_numbers(layer.name) for layer in linears}))


def _as_called(layers: list[Layer], trial: Trial) -> list[Layer]:
    """Say of each layer on which device it computes, and with which of the others it shares its input.

    A layer with a bias and one without do not share an input: the constant input of 1 belongs to it.
    """
    first: dict[tuple[int, bool], str] = {}
    described = []
    for layer in layers:
        use = trial.use(layer.module)
        if layer.expert is not None:
            layer = replace(layer, device=use.device) if layer.expert.parameter else layer
        elif use.whole:
            name = first.setdefault((use.input_id, layer.bias), layer.name)
            layer = replace(layer, input_name=name, device=use.device)
        described.append(layer)
    return described


def _paper_layers(model: nn.Module, linears: list[Layer]) -> list[Layer]:
    """The layers of the published G-DIG code (see `PAPER_LLAMA`)."""
    name = PAPER_BLOOM if any(layer.name.endswith(PAPER_BLOOM) for layer in linears) else PAPER_LLAMA
    projections = [layer for layer in linears if layer.name.endswith(name)]
    if not projections:
        raise LayerError(
            f"preset paper: {type(model).__name__}: expected {PAPER_LLAMA!r} or {PAPER_BLOOM!r} layers, found neither; "
            "choose layers with filter_modules"
        )
    return projections if name == PAPER_BLOOM else projections[::3]
