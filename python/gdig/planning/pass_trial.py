"""A trial of the model's passes: what forward, backward and the head cost, and what the pass gives some layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from gdig.config.config import Config
from gdig.model.batches import Batch
from gdig.model.capture import GradientPass
from gdig.model.causal_model import Model
from gdig.model.forward import forward_losses
from gdig.model.head import block_positions, head_loss, head_nll
from gdig.model.layer_names import block_of
from gdig.model.layers import Layer
from gdig.model.places import ExpertPlaces, Places
from gdig.model.precision import float32_products
from gdig.planning.stopwatch import Stopwatch

Kind = tuple[int, int, bool, torch.device, float]
"""What the cost of a layer follows from: J, O, whether it is the first that reads its input, the device."""


@dataclass(frozen=True)
class PassRates:
    """Seconds of the model's own work.

    Attributes:
        forward: a token, pads included.
        backward: a token, pads included, from the loss down to the lowest chosen layer.
        head: a label: its loss and its gradient.
        draw: a label that is drawn from the model, beside `head`.
        losses: a label: its loss without a gradient.
        spread: half the range of a repeated pass over its mean; 0 when it was not repeated.
    """

    forward: float
    backward: float
    head: float
    draw: float
    losses: float
    spread: float = 0.0


@dataclass(frozen=True)
class Captured:
    """What a pass gave the sink.

    Attributes:
        batch: the batch.
        layers: (index of the layer, a [T, I], d [T, O], places) in the order of the backward pass, experts one by one.
        calls: what the sinks got, (indices of the layers, a, d, places): one layer, or a matrix of experts at once.
        seconds: of the whole pass.
    """

    batch: Batch
    layers: list[tuple[int, torch.Tensor, torch.Tensor, Places]]
    calls: list[tuple[tuple[int, ...], torch.Tensor, torch.Tensor, Places | ExpertPlaces]]
    seconds: float


def kind_of(layer: Layer) -> Kind:
    """The kind of a layer."""
    return layer.width, layer.out_features, layer.input_name == layer.name, layer.device, layer.share


def representatives(layers: Sequence[Layer]) -> list[int]:
    """Choose layers whose costs stand for those of all: the lowest, and for each kind the one in the middle.

    With a layer come those that share its input. The lowest is among them, so the graph starts where a run's does.
    """
    by_kind: dict[Kind, list[Layer]] = {}
    for layer in layers:
        by_kind.setdefault(kind_of(layer), []).append(layer)
    inputs = {layers[0].input_name} | {group[len(group) // 2].input_name for group in by_kind.values()}
    # The router decides what one expert sees, so all experts of a matrix stand for those of the others.
    matrices = {layer.expert.matrix for layer in layers if layer.expert is not None and layer.input_name in inputs}
    return [
        index
        for index, layer in enumerate(layers)
        if layer.input_name in inputs or (layer.expert is not None and layer.expert.matrix in matrices)
    ]


def block_number(layers: Sequence[Layer]) -> list[int]:
    """For each layer the number of its block among the blocks of these layers, from 0."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(block_of(layer.name) or layer.name, len(numbers)) for layer in layers]


def capture(model: Model, batch: Batch, config: Config, watch: Stopwatch) -> tuple[float, Captured]:
    """Pass a batch, and keep what each layer of the model gets. Returns the seconds of the forward pass too."""
    forward_end = 0.0
    calls: list[tuple[tuple[int, ...], torch.Tensor, torch.Tensor, Places | ExpertPlaces]] = []

    def stamp(_: object) -> None:
        nonlocal forward_end
        forward_end = watch.now()

    def sink(index: int, a: torch.Tensor, d: torch.Tensor, places: Places) -> None:
        calls.append(((index,), a.clone(), d.clone(), places))

    def experts_sink(indices: Sequence[int], a: torch.Tensor, d: torch.Tensor, places: ExpertPlaces) -> None:
        calls.append((tuple(indices), a.clone(), d.clone(), places))

    begun = watch.now()
    with float32_products(config.matmul_precision):
        GradientPass(model, config.loss_reduction).run(batch, sink, stamp, experts_sink=experts_sink)
    seconds = watch.now() - begun
    layers: list[tuple[int, torch.Tensor, torch.Tensor, Places]] = []
    for indices, a, d, places in calls:
        if isinstance(places, Places):
            layers.append((indices[0], a, d, places))
        else:
            layers += [(indices[n], own_a, own_d, own) for n, own_a, own_d, own in places.split(a, d)]
    return forward_end - begun, Captured(batch, layers, calls, seconds)


def time_passes(
    model: Model, batch: Batch, config: Config, watch: Stopwatch, budget_s: float
) -> tuple[PassRates, Captured]:
    """Pass a batch, and pass it again if that leaves within `budget_s` seconds; then measure the head."""
    begun = watch.now()
    forward, captured = capture(model, batch, config, watch)
    forwards, totals = [forward], [captured.seconds]
    if watch.now() - begun + captured.seconds <= budget_s:
        forward, captured = capture(model, batch, config, watch)
        forwards.append(forward)
        totals.append(captured.seconds)
    n_labels = len(batch.targets[1])
    head, draw, losses = _time_head(model, n_labels, watch)
    n, mean = batch.input_ids.size, sum(totals) / len(totals)
    forward = sum(forwards) / len(forwards)
    rates = PassRates(
        forward=forward / n,
        backward=max(0.0, mean - forward - n_labels * head) / n,
        head=head,
        draw=draw,
        losses=losses,
        spread=(max(totals) - min(totals)) / 2 / mean,
    )
    return rates, captured


def time_forward(model: Model, batch: Batch, config: Config, watch: Stopwatch) -> PassRates:
    """Measure a pass without gradients, for a run of such passes."""
    n_labels = len(batch.targets[1])

    def forward() -> None:
        with float32_products(config.matmul_precision):
            forward_losses(model, batch, config.loss_reduction, lambda _: None)

    forward()
    times = [watch.seconds(forward) for _ in range(2)]
    _, _, losses = _time_head(model, n_labels, watch)
    mean = sum(times) / 2
    rest = max(0.0, mean - n_labels * losses) / batch.input_ids.size
    return PassRates(rest, 0.0, 0.0, 0.0, losses, (max(times) - min(times)) / 2 / mean)


def _time_head(model: Model, n_labels: int, watch: Stopwatch) -> tuple[float, float, float]:
    """Seconds a label: of loss and gradient, of a draw beside them, and of the loss alone."""
    n = max(1, min(n_labels, block_positions(model.device.type, model.vocab_size)))
    width = model.vocab_size if model.head is None else model.module.get_input_embeddings().weight.shape[1]  # type: ignore[operator,union-attr]
    device = model.device if model.head is None else next(model.head.parameters()).device
    x = torch.ones(n, int(width), dtype=model.dtype, device=device)  # type: ignore[arg-type]
    labels = torch.zeros(n, dtype=torch.int64, device=device)
    weights = torch.ones(n, dtype=torch.float64, device=device)
    with torch.enable_grad():
        head = watch.seconds(lambda: head_loss(model, x, labels, weights))
        drawn = watch.seconds(lambda: head_loss(model, x, labels, weights, weights / 2))
    losses = watch.seconds(lambda: head_nll(model, x, labels))
    return head / n, max(0.0, drawn - head) / n, losses / n


def with_layers(model: Model, indices: Sequence[int]) -> Model:
    """The model with some of its layers, not compiled."""
    return replace(model, layers=[model.layers[index] for index in indices], compiled=None)
