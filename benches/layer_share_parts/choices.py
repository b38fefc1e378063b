"""The choices of layers that are compared, in the words of the option `layers`."""

from __future__ import annotations

import re

import numpy as np

from gdig.config.layer_choice import parse_layers

WHOLE = "all"
CHOICES = (
    WHOLE, "mlp", "attention",
    "upper:0.5", "mlp:upper:0.5", "attention:upper:0.5",
    "upper:0.25", "mlp:upper:0.25", "attention:upper:0.25",
    "upper:0.125", "mlp:upper:0.125", "attention:upper:0.125",
)  # fmt: skip
_BLOCK = re.compile(r"layers\.(\d+)\.")


def block_number(layer: str) -> int:
    """The number of the block that a layer of a Llama is in, from its name."""
    match = _BLOCK.search(layer)
    assert match is not None
    return int(match[1])


def chosen(text: str, names: list[str]) -> np.ndarray:
    """Which of the linear layers of all blocks of a Llama a value of `layers` chooses: bool [layers]."""
    choice = parse_layers(text)
    blocks = np.array([block_number(name) for name in names])
    is_mlp = np.array([".mlp." in name for name in names])
    of_kind = np.ones(len(names), bool) if choice.kind == "all" else is_mlp == (choice.kind == "mlp")
    n_blocks = int(blocks.max()) + 1
    return of_kind & (blocks >= n_blocks - choice.n_upper(n_blocks))
