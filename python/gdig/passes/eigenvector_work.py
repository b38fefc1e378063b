"""What the eigenvectors of all layers are expected to take, before the model is loaded: from its configuration."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig

from gdig.config.config import Config
from gdig.config.layer_choice import default_layers, parse_layers
from gdig.model.directory import is_adapter, model_directory, named_directory

UNKNOWN = 2000.0
"""Work of a model whose layers its configuration does not tell: that of 24 MLP layers of 135 million parameters."""
_A_SQUARE = 4400.0
"""Work of the eigenvectors of a factor, for each column squared and each parameter of the model. Measured on a CPU."""
_CUBE_FROM = 1536
"""Columns of a factor up to which its time goes by their square, about; above, it goes by the cube."""


def eigenvector_work(config: Config) -> float:
    """Return the work in tokens of a plain forward and backward pass.

    It is the same at every start. A choice of layers by their names, an adapter, experts, and a configuration that
    lacks a size give `UNKNOWN`.

    Args:
        config: the options that choose model and layers.
    """
    of_paper = config.preset == "paper" and config.layers is None
    if config.filter_modules is not None or of_paper or is_adapter(named_directory(config)):
        return UNKNOWN
    try:
        path = model_directory(config)
        text = AutoConfig.from_pretrained(path, trust_remote_code=config.trust_remote_code, local_files_only=True)
        return _of_sizes(config, text.get_text_config())
    except Exception:  # the load of the model says what is wrong with it
        return UNKNOWN


def _of_sizes(config: Config, text: Any) -> float:
    """From the sizes of a model with one MLP a block: two projections up, which share an input, and one down."""
    hidden, inner, blocks = text.hidden_size, text.intermediate_size, text.num_hidden_layers
    if any("expert" in name and getattr(text, name) for name in vars(text)):
        return UNKNOWN
    heads = text.num_attention_heads
    keys = hidden * (getattr(text, "num_key_value_heads", None) or heads) // heads
    attention, mlp = 2 * hidden * (hidden + keys), 3 * hidden * inner
    parameters = blocks * (attention + mlp) + text.vocab_size * hidden
    choice = default_layers(adapter=False) if config.layers is None else parse_layers(config.layers)
    sides = {"mlp": [hidden, hidden, inner, inner, inner], "attention": [*4 * [hidden], keys, keys]}
    columns = [side for kind, of_kind in sides.items() if choice.kind in (kind, "all") for side in of_kind]
    squares = sum(side**2 * max(1.0, side / _CUBE_FROM) for side in columns)
    return _A_SQUARE * choice.n_upper(blocks) * squares / parameters
