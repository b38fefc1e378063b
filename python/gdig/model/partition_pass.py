"""Gradient passes over some of a model's layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from gdig.model.batches import Batch
from gdig.model.capture import ExpertsSink, GradientPass, Sink
from gdig.model.causal_model import Model
from gdig.model.places import Places


class PartitionPass:
    """Runs batches through a model, and gives (a, d) of some of its layers to a sink.

    The graph starts at the lowest of these layers; a compiled pass runs as a whole.

    Args:
        model: the frozen model.
        partition: the indices of the layers in the model, rising.
        options: of :class:`GradientPass`.

    Attributes:
        layers: these layers.
    """

    def __init__(self, model: Model, partition: Sequence[int], *options: Any, **named_options: Any) -> None:
        self.layers = [model.layers[index] for index in partition]
        self._numbers = {index: number for number, index in enumerate(partition)}
        if model.compiled is None:
            model = replace(model, layers=self.layers)
            self._numbers = {number: number for number in range(len(partition))}
        self._gradients = GradientPass(model, *options, **named_options)

    def run(self, batch: Batch, sink: Sink, experts_sink: ExpertsSink | None = None) -> torch.Tensor:
        """Pass one batch, as `GradientPass.run`. The sinks get the places of layers in the partition."""

        def give(index: int, a: torch.Tensor, d: torch.Tensor, places: Places) -> None:
            if index in self._numbers:  # a compiled pass gives the layers of all partitions
                sink(self._numbers[index], a, d, places)

        # A model with experts has no compiled pass, so the indices that it gives are those of the partition.
        return self._gradients.run(batch, give, experts_sink=experts_sink)
