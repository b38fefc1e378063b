"""One forward and backward pass that gives each layer's inputs and output gradients to a sink, layer by layer.

No weight gradient is computed: the weights are frozen, and the graph begins at the first chosen layer's output. The
pass holds a layer's inputs from the forward pass until the layer's output gradient is there, and then drops both. Only
the numbers of tokens that each line sends to each expert are read back from the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import nn

from gdig.errors import LayerError
from gdig.model.batch_runner import trial_batch
from gdig.model.batches import Batch
from gdig.model.causal_model import Model
from gdig.model.compiled import CompiledPass
from gdig.model.device import to_device
from gdig.model.expert_lists import ListedTap, tapped
from gdig.model.experts import Experts, Matrix
from gdig.model.experts import Tap as ExpertTap
from gdig.model.experts_pass import computed_by_gdig
from gdig.model.head import head_loss
from gdig.model.head_cache import HeadCache
from gdig.model.layers import Layer
from gdig.model.load_trial import sees_all
from gdig.model.places import ExpertPlaces, Places
from gdig.model.routing import Routing
from gdig.model.tap import Tap
from gdig.ops import Segments
from gdig.philox import stream_key, uniform

Sink = Callable[[int, torch.Tensor, torch.Tensor, Places], None]
"""A function of a layer's index, its inputs `a [T, I]` and output gradients `d [T, O]`, and the places of the T tokens
in the batch. At pads d is 0. An expert that no token of the batch goes to is not given."""

ExpertsSink = Callable[[Sequence[int], torch.Tensor, torch.Tensor, ExpertPlaces], None]
"""A function of the indices of the chosen layers of a matrix of fused experts. It also gets the inputs `a [R, I]`
and output gradients `d [R, O]` of the rows that they see, and the places of these rows."""

StatesSink = Callable[[tuple[torch.Tensor, ...]], None]
"""A function of the hidden states [B, L, H] of some layers, the last layer last (`Model.with_states`)."""


class GradientPass:
    """Runs batches through a model, and gives each layer's (a, d) to a sink.

    Args:
        model: the frozen model.
        loss_reduction: "mean" or "sum" of an example's loss over its labels.
        random_seed: when given, labels are drawn from the model's own distribution at the labelled positions (true
            Fisher); the draws depend on (random_seed, key of the line, position) alone.
        heads: keeps the head's results of each batch for further passes over the same batches.
        mask_not_finite: give the sink zeros for a line whose loss is not finite. Sums over a batch need this; sums over
            each example alone do not. Without it, a and d of such a line can hold any numbers.
    """

    def __init__(
        self,
        model: Model,
        loss_reduction: Literal["mean", "sum"] = "mean",
        random_seed: int | None = None,
        *,
        heads: HeadCache | None = None,
        mask_not_finite: bool = True,
    ) -> None:
        self.model = model
        self.loss_reduction = loss_reduction
        self.random_seed = random_seed
        self.mask_not_finite = mask_not_finite
        self._anchor = torch.zeros((), device=model.device, requires_grad=True)
        self._reached: set[int] = set()  # layers of the running batch that a gradient has reached
        self._called: set[int] = set()  # layers of experts in lists that have tokens of it
        self._not_finite: torch.Tensor | None = None  # bool [B], lines of the running batch to mask
        self._places = Places(Segments(torch.zeros(1, dtype=torch.int64)), torch.empty(0))  # of the running batch
        self._heads = heads or HeadCache(0)

    def run(
        self,
        batch: Batch,
        sink: Sink,
        states_sink: StatesSink | None = None,
        *,
        experts_sink: ExpertsSink | None = None,
    ) -> torch.Tensor:
        """Pass one batch. `states_sink` gets the hidden states, detached, before the backward pass.

        `experts_sink` gets the layers of a matrix of fused experts at once. Without it, `sink` gets them one by one.

        Returns:
            Each line's loss: float32 [B] on the model's device. With `mask_not_finite`, a line whose loss is NaN or
            infinite has a = 0 and d = 0.

        Raises:
            ModelError: when no gradient reaches a chosen layer, or a layer does not see every token.
        """
        self._reached.clear()
        self._called.clear()
        device = self.model.device
        counts = batch.targets[2]
        ids = to_device(batch.input_ids, device).long()
        weights = 1.0 / np.maximum(counts, 1) if self.loss_reduction == "mean" else np.ones(len(counts))
        if self.model.compiled is not None:
            return self._run_compiled(self.model.compiled, batch, ids, weights, sink, states_sink)
        with torch.enable_grad(), self._taps(sink, experts_sink or split_experts(sink), batch):
            hidden, states = (self.model.hidden(ids), ()) if states_sink is None else self.model.with_states(ids)
            _give(states, states_sink)
            hidden = hidden.flatten(0, 1)
            at = to_device(batch.targets[0], hidden.device)
            predictors = hidden.index_select(0, at)
            losses, gradient = self._loss(batch, predictors.detach(), weights)
            if predictors.requires_grad:
                predictors.backward(gradient)
        missing = self._missing()
        if missing:
            raise LayerError(f"filter_modules: no gradient reaches {', '.join(missing)}; leave these out")
        return losses.float()

    def _run_compiled(
        self,
        compiled: CompiledPass,
        batch: Batch,
        ids: torch.Tensor,
        weights: np.ndarray,
        sink: Sink,
        states_sink: StatesSink | None,
    ) -> torch.Tensor:
        """As `run`, through the compiled pass, which returns the (a, d) of all layers at once."""
        if not compiled.checked:
            # A compiled pass does not show layers that are not reached, are used twice, or see some tokens only.
            GradientPass(replace(self.model, compiled=None)).run(trial_batch(16, 8), lambda *_: None)
            compiled.checked = True
        (hidden, states), inputs, zeros = compiled.forward(ids)
        _give(states, states_sink)
        flat = hidden.detach().flatten(0, 1)
        at = to_device(batch.targets[0], flat.device)
        losses, gradient = self._loss(batch, flat.index_select(0, at), weights)
        upstream = torch.zeros_like(flat).index_copy_(0, at, gradient).view_as(hidden)
        with torch.no_grad():
            for index, (a, d) in enumerate(zip(inputs, compiled.backward(hidden, zeros, upstream), strict=True)):
                assert d is not None  # the check above has shown that a gradient reaches every layer
                a, d = a.detach().flatten(0, -2), d.flatten(0, -2)
                sink(index, self._masked(a, batch.shape), self._masked(d, batch.shape), self._places)
        return losses.float()

    def _loss(self, batch: Batch, predictors: torch.Tensor, weights: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Each line's loss, float64 [B], and the gradient at the labelled positions, [M, H]. Sets `_places`."""
        _, labels, counts = batch.targets
        per_label = to_device(np.repeat(weights, counts), predictors.device)
        nll, gradient = self._head(batch, predictors, labels, per_label)
        losses = torch.segment_reduce(
            nll * per_label, "sum", lengths=to_device(counts, predictors.device), unsafe=True, initial=0
        )
        self._set_places(batch, losses, self.model.device)
        return losses, gradient

    def _head(
        self, batch: Batch, predictors: torch.Tensor, labels: np.ndarray, weights: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and gradient at the labelled positions, from the head or from the cache."""
        cache, key = self._heads, (batch.keys.tobytes(), batch.shape)
        if key in cache.results:
            return cache.results[key]
        device, drawn, noise = predictors.device, cache.drawn.get(key), None
        if self.random_seed is not None and drawn is None:
            noise = to_device(self._noise(batch), device)
        nll, gradient, drawn = head_loss(self.model, predictors, to_device(labels, device), weights, noise, drawn)
        cache.keep(key, nll, gradient, drawn)
        return nll, gradient

    def _noise(self, batch: Batch) -> np.ndarray:
        """A number in (0, 1) for each labelled position: float64 [M]."""
        lines = [
            uniform(stream_key("labels", self.random_seed, int(key)), n)
            for key, n in zip(batch.keys, batch.targets[2].tolist(), strict=True)
        ]
        return np.concatenate(lines) if lines else np.zeros(0)

    def _set_places(self, batch: Batch, losses: torch.Tensor, device: torch.device) -> None:
        """Find the lines to mask, and the places for the sink."""
        mask = to_device(batch.token_mask, device)
        self._not_finite = None
        not_finite = ~torch.isfinite(losses)
        # On the CPU, a look at the losses is free and saves the masking. On a device, masking is cheaper than waiting.
        if self.mask_not_finite and (not_finite.device.type != "cpu" or bool(not_finite.any())):
            self._not_finite = not_finite.to(device)
            mask = self._masked(mask[:, None], batch.shape)[:, 0]
        self._places = Places(batch.segments, mask)

    def _masked(self, x: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
        """x with zeros in the lines whose loss is not finite."""
        if self._not_finite is None:
            return x
        return x.unflatten(0, shape).masked_fill(self._not_finite.to(x.device)[:, None, None], 0).flatten(0, 1)

    @contextmanager
    def _taps(self, sink: Sink, experts_sink: ExpertsSink, batch: Batch) -> Iterator[None]:
        """Hook the layers in the block, for one pass."""
        shape = batch.shape

        def hook(index: int) -> Callable:
            def give(a: torch.Tensor, gradient: torch.Tensor) -> None:
                # Looked at here, because calls that no gradient reaches do not count: DoRA passes an identity matrix
                # through its matrices to know their norm.
                if index not in self._reached and not sees_all(a, shape):
                    raise LayerError(
                        f"{self.model.layers[index].name}: sees {a.shape[:-1].numel()} of the batch's "
                        f"{shape[0] * shape[1]} tokens, or sees them in another order (a routed expert?); expected a "
                        "layer that sees all; leave it out with filter_modules"
                    )
                self._reach(index)
                a, d = a.flatten(0, -2), gradient.flatten(0, -2)
                places = replace(self._places, mask=self._places.mask.to(a.device))
                with torch.no_grad():
                    sink(index, self._masked(a, shape), self._masked(d, shape), places)

            def forward(module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
                a = args[0].detach().to(output.device)  # a model can be spread over several devices
                return Tap.apply(output, a, self._anchor.to(output.device), give)

            return forward

        layers = [(i, layer) for i, layer in enumerate(self.model.layers) if layer.expert is None]
        handles = [layer.module.register_forward_hook(hook(i)) for i, layer in layers]
        try:
            taps, device = self._expert_taps(experts_sink, batch), self.model.device
            listed = tapped(self.model.listed, self.model.layers, batch, device, self._listed_tap(sink, shape[1]))
            with computed_by_gdig(self.model.experts, batch, device, taps), listed:
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _listed_tap(self, sink: Sink, length: int) -> ListedTap:
        """The function that taps the layers of experts in lists."""

        def tap(index: int, a: torch.Tensor, y: torch.Tensor, rows: torch.Tensor, routing: Routing) -> torch.Tensor:
            if len(rows):
                self._called.add(index)

            def give(a: torch.Tensor, gradient: torch.Tensor) -> None:
                self._reach(index)
                a, d = (x.flatten(0, -2).index_select(0, rows) for x in (a, gradient))
                with torch.no_grad():
                    self._give_experts([index], a, d, routing, length, split_experts(sink))

            return Tap.apply(y, a.detach(), self._anchor.to(y.device), give)

        return tap

    def _missing(self) -> list[str]:
        """The layers that no gradient has reached. An expert of a list is one where it has tokens."""

        def has_tokens(index: int, layer: Layer) -> bool:
            return layer.expert is None or bool(layer.expert.parameter) or index in self._called

        unreached = ((i, layer) for i, layer in enumerate(self.model.layers) if i not in self._reached)
        return [layer.name for index, layer in unreached if has_tokens(index, layer)]

    def _expert_taps(self, sink: ExpertsSink, batch: Batch) -> Callable[[Experts], ExpertTap]:
        """For fused experts, the function that taps their matrices and gives the sink the layers of the experts."""
        indices: dict[str, dict[int, int]] = {}  # of the layer, by the matrix and the number of the expert
        for index, layer in enumerate(self.model.layers):
            if layer.expert is not None:
                indices.setdefault(layer.expert.matrix, {})[layer.expert.number] = index

        def of_experts(experts: Experts) -> ExpertTap:
            def tap(matrix: Matrix, a: torch.Tensor, y: torch.Tensor, routing: Routing) -> torch.Tensor:
                by_expert = indices.get(experts.name_of(matrix))
                if by_expert is None:
                    return y
                numbers = sorted(by_expert)

                def give(a: torch.Tensor, d: torch.Tensor) -> None:
                    for index in by_expert.values():
                        self._reach(index)
                    with torch.no_grad():
                        if len(numbers) < experts.count:
                            chosen = torch.isin(routing.experts, torch.tensor(numbers, device=a.device)).nonzero()[:, 0]
                            a, d = a.index_select(0, chosen), d.index_select(0, chosen)
                        own = routing.of_experts(numbers)
                        self._give_experts([by_expert[n] for n in numbers], a, d, own, batch.shape[1], sink)

                return Tap.apply(y, a.detach(), self._anchor.to(y.device), give)

            return tap

        return of_experts

    def _give_experts(
        self, indices: Sequence[int], a: torch.Tensor, d: torch.Tensor, routing: Routing, length: int, sink: ExpertsSink
    ) -> None:
        """Give the sink a [R, I] and d [R, O] of the layers of some experts, whose rows the routing has."""
        if self._not_finite is not None:
            bad = self._not_finite.to(a.device).index_select(0, routing.tokens // length)[:, None]
            a, d = a.masked_fill(bad, 0), d.masked_fill(bad, 0)
        mask = self._places.mask.to(a.device).index_select(0, routing.tokens)
        sink(indices, a, d, ExpertPlaces(routing.expert_rows, mask, routing.tokens))

    def _reach(self, index: int) -> None:
        """Note that a gradient has reached a layer."""
        if index in self._reached:
            raise LayerError(f"{self.model.layers[index].name}: is used twice in a pass; leave it out")
        self._reached.add(index)


def split_experts(sink: Sink) -> ExpertsSink:
    """A sink of experts that gives them one by one to the sink of a layer."""

    def each(indices: Sequence[int], a: torch.Tensor, d: torch.Tensor, places: ExpertPlaces) -> None:
        for number, own_a, own_d, own_places in places.split(a, d):
            sink(indices[number], own_a, own_d, own_places)

    return each


def _give(states: tuple[torch.Tensor, ...], sink: StatesSink | None) -> None:
    """Give the hidden states to the sink, if there is one."""
    if sink is not None:
        with torch.no_grad():
            sink(tuple(state.detach() for state in states))
