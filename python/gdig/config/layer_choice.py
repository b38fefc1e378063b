"""The option `layers`: which of a model's linear layers count."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal, get_args

from gdig.errors import ConfigError

Kind = Literal["all", "mlp", "attention"]

DEFAULT_LAYERS = "mlp:upper:0.25"
"""The choice in a model when neither `layers` nor `filter_modules` is given, among the blocks that have such layers."""
DEFAULT_LEAST_BLOCKS = 4
"""The fewest blocks of the default choice, where a model has as many: a quarter of a short model is too little."""
DEFAULT_ADAPTER_LAYERS = "all"
"""The choice among an adapter's LoRA matrices when neither `layers` nor `filter_modules` is given."""

_KIND, _UPPER = "|".join(get_args(Kind)), r"upper:(\d+(?:\.\d*)?|\.\d+)"
_GRAMMAR = re.compile(rf"(?:({_KIND})(?::{_UPPER})?)|{_UPPER}")


@dataclass(frozen=True)
class LayerChoice:
    """A choice among the linear layers of a model's blocks.

    Attributes:
        kind: the layers of the MLPs ("mlp"), the others ("attention", or what stands in its place), or both ("all").
        upper: the share of the blocks, counted from the output; above 0 and up to 1.
        least: the fewest blocks, where there are as many.
    """

    kind: Kind
    upper: Fraction = Fraction(1)
    least: int = 1

    def n_upper(self, blocks: int) -> int:
        """How many of so many blocks are chosen, counted from the output: the share, rounded up."""
        return min(blocks, max(self.least, math.ceil(self.upper * blocks)))


def parse_layers(text: str) -> LayerChoice:
    """Read a value of the option `layers`: KIND, upper:SHARE or KIND:upper:SHARE.

    Raises:
        ConfigError: when the text is nothing of that.

    Example:
        >>> parse_layers("mlp:upper:0.25")
        LayerChoice(kind='mlp', upper=Fraction(1, 4), least=1)
    """
    match = _GRAMMAR.fullmatch(text)
    share = Fraction((match and (match[2] or match[3])) or 1)
    if match is None or not 0 < share <= 1:
        raise ConfigError(
            f"layers={text!r}: expected all, mlp or attention, upper:SHARE, or both such as mlp:upper:0.25, "
            "with a share above 0 and up to 1"
        )
    return LayerChoice(match[1] or "all", share)  # type: ignore[arg-type]  # the grammar allows nothing else


def default_layers(adapter: bool) -> LayerChoice:
    """The choice when neither `layers` nor `filter_modules` is given.

    Args:
        adapter: whether the choice is among an adapter's LoRA matrices.
    """
    if adapter:
        return parse_layers(DEFAULT_ADAPTER_LAYERS)
    return replace(parse_layers(DEFAULT_LAYERS), least=DEFAULT_LEAST_BLOCKS)
