"""Rotary factors that depend on the length of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def rotary_switch(config: Any) -> int | None:
    """Return the longest batch, in tokens, that a model passes with its factors for short texts.

    Models with "longrope" (Phi-3, Phi-3.5, Phi-4-mini) take other factors for all rows of a longer batch. So a row
    depends on the longest row of its batch, unless batches are cut at this length.

    Args:
        config: the configuration of a model, or of its text part.

    Returns:
        The least such length of the model's layers; None for a model whose factors do not depend on the length.
    """
    # Names of transformers 5, then 4; a model may have one set of parameters for each type of layer.
    given = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
    if not isinstance(given, Mapping):  # transformers 4 keeps what it does not know as it is
        return None
    sets = [value for value in (given, *given.values()) if isinstance(value, Mapping)]
    lengths = [
        values.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)
        for values in sets
        if "longrope" in (values.get("rope_type"), values.get("type"))
    ]
    return min((int(length) for length in lengths if isinstance(length, (int, float)) and length > 0), default=None)
