"""The choices of layers that are compared, in the words of the option `layers`."""

from __future__ import annotations

import numpy as np

from gdig.config.layer_choice import parse_layers
from gdig.model.layer_names import block_of

WHOLE = "all"
CHOICES = (
    WHOLE, "mlp", "attention",
    "upper:0.5", "mlp:upper:0.5", "attention:upper:0.5",
    "upper:0.25", "mlp:upper:0.25", "attention:upper:0.25",
    "upper:0.125", "mlp:upper:0.125", "attention:upper:0.125",
)  # fmt: skip


def block_numbers(names: list[str]) -> np.ndarray:
    """The number of the block that each layer is in, from 0: int [layers]. Names are in the model's order."""
    numbers: dict[str | None, int] = {}
    return np.array([numbers.setdefault(block_of(name), len(numbers)) for name in names])


def chosen(text: str, names: list[str]) -> np.ndarray:
    """Which of the linear layers of all blocks of a Llama a value of `layers` chooses: bool [layers]."""
    choice = parse_layers(text)
    blocks = block_numbers(names)
    is_mlp = np.array([".mlp." in name for name in names])
    of_kind = np.ones(len(names), bool) if choice.kind == "all" else is_mlp == (choice.kind == "mlp")
    n_blocks = int(blocks.max()) + 1
    return of_kind & (blocks >= n_blocks - choice.n_upper(n_blocks))
