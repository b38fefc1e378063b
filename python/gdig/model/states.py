"""States that a model keeps from one batch to the next, though nobody asked for a cache."""

from __future__ import annotations

from typing import Any

import transformers
from torch import nn


def forget_states(model: nn.Module) -> None:
    """Make each pass of RecurrentGemma begin without the states of the pass before.

    transformers 4 keeps the last states of its recurrence also with `use_cache=False`. They weigh nothing at a line's
    first token. But they have the shape of their batch, and they hold its graph, which has had its backward pass.
    transformers 5 forgets them itself.
    """
    if int(transformers.__version__.split(".")[0]) >= 5:
        return
    for module in model.modules():
        if hasattr(module, "recurrent_states"):
            module.register_forward_pre_hook(_forget)


def _forget(module: Any, _: Any) -> None:
    module.recurrent_states = None
