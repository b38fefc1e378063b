"""What the graph of a pass keeps, by the tensors that autograd packs."""

from __future__ import annotations

import pytest
import torch

from gdig.model.batches import Batch
from gdig.model.capture import GradientPass
from gdig.model.causal_model import Model


def kept_bytes(model: Model, batch: Batch) -> int:
    """Bytes of the storages that the graph of a batch keeps, without the weights and what the head makes."""
    own = {x.untyped_storage().data_ptr() for x in (*model.module.parameters(), *model.module.buffers())}
    storages = {}

    def pack(x):
        if (address := x.untyped_storage().data_ptr()) not in own:
            storages[address] = x.untyped_storage()
        return x

    def stop(*_):
        raise StopIteration

    passes = GradientPass(model)
    passes._loss = stop  # type: ignore[method-assign]
    with pytest.raises(StopIteration), torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        passes.run(batch, lambda *_: None)
    return sum(storage.nbytes() for storage in storages.values()) - _positions_bytes(batch)


def _positions_bytes(batch: Batch) -> int:
    """The choice of the labelled positions keeps their numbers."""
    return batch.targets[0].nbytes
