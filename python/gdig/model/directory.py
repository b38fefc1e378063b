"""The directory of a model: where its weights are, and what its configuration says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from gdig.config.config import Config
from gdig.errors import MissingModelError, ModelError
from gdig.model.adapter import ADAPTER_CONFIG, base_directory, is_adapter, resized_vocabulary
from gdig.model.hub import model_folder
from gdig.model.rotary import rotary_switch

_MOST_LAYERS = 4096
"""Ten times as many layers as models have."""


@dataclass(frozen=True)
class Limits:
    """The longest input of a model in tokens (None: the model states no limit), the size of its vocabulary, and the
    length at which its rotary factors change (`model.rotary`)."""

    window: int | None
    vocab_size: int | None
    rotary_switch: int | None = None


def read_limits(config: Config) -> Limits:
    """Read the model's limits from its configuration, without its weights.

    Raises:
        ModelError: when the directory is missing or holds no model configuration.
    """
    path = model_directory(config)
    try:
        whole = AutoConfig.from_pretrained(path, trust_remote_code=config.trust_remote_code, local_files_only=True)
        text = whole.get_text_config()
    except Exception as error:  # transformers and the library of its configurations raise many kinds of errors
        raise ModelError(f"{path}: cannot be read as a model: {error or type(error).__name__}") from error
    vocab_size = getattr(text, "vocab_size", None)
    if is_adapter(adapter := named_directory(config)):
        vocab_size = resized_vocabulary(adapter) or vocab_size
    return Limits(getattr(text, "max_position_embeddings", None), vocab_size, rotary_switch(text))


def require_few_layers(path: Path, text: Any) -> None:
    """Raise ModelError if the configuration in `path` asks for more layers than any model has.

    transformers makes the modules of all layers before it looks at the weights.
    """
    layers = getattr(text, "num_hidden_layers", None)
    if isinstance(layers, int) and layers > _MOST_LAYERS:
        raise ModelError(f"{path}: num_hidden_layers: expected at most {_MOST_LAYERS:,}, got {layers}")


def named_directory(config: Config) -> Path:
    """The directory of the model or adapter that `config.model` names: itself, or that of a model of the hub.

    Raises:
        ModelError: when there is none.
    """
    config.require("model")
    return model_folder(str(config.model))


def model_directory(config: Config) -> Path:
    """The directory with the weights: `config.model`, or the base model of an adapter there (see `base_directory`).

    Raises:
        ModelError: when it is missing.
    """
    path = named_directory(config)
    if is_adapter(path):
        return base_directory(path, config.base_model)
    if config.base_model is not None:
        raise ModelError(f"base_model: {path} is no adapter (it has no {ADAPTER_CONFIG}); leave base_model out")
    return path


def architecture_directory(path: Path, config: Config, architecture: str | None) -> Path:
    """The directory whose config.json describes the weights in `path`: `path`, or `architecture` if it has none."""
    if architecture is None or (path / "config.json").is_file():
        return path
    return model_directory(config.with_options(model=architecture))


def has_safetensors(path: Path) -> bool:
    """Return True when the weights are in safetensors files.

    Raises:
        ModelError: when they are not. The alternative is a pickle, which can run any code.
    """
    if any(path.glob("*.safetensors")):
        return True
    raise MissingModelError(f"{path}: expected weights in *.safetensors, found none (pickled weights are not loaded)")
