"""The directory of a model: where its weights are, and what its configuration says."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoConfig

from gdig.config.config import Config
from gdig.errors import ModelError


@dataclass(frozen=True)
class Limits:
    """The longest input of a model in tokens (None: the model states no limit), and the size of its vocabulary."""

    window: int | None
    vocab_size: int | None


def read_limits(config: Config) -> Limits:
    """Read the model's limits from its configuration, without its weights.

    Raises:
        ModelError: when the directory is missing or holds no model configuration.
    """
    path = model_directory(config)
    try:
        whole = AutoConfig.from_pretrained(path, trust_remote_code=config.trust_remote_code, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{path}: cannot be read as a model: {error}") from error
    text = whole.get_text_config()
    return Limits(getattr(text, "max_position_embeddings", None), getattr(text, "vocab_size", None))


def model_directory(config: Config) -> Path:
    """The directory with the weights: `config.model`, or the base model that an adapter there names.

    Raises:
        ModelError: when it is missing.
    """
    config.require("model")
    path = Path(str(config.model))
    if not path.is_dir():
        raise ModelError(f"{path}: expected a directory with a model in Hugging Face format, found none")
    adapter = path / "adapter_config.json"
    if not adapter.is_file():
        return path
    try:
        name = str(json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{adapter}: expected a JSON object with base_model_name_or_path: {error!r}") from None
    base = next((p for p in (Path(name), path / name) if p.is_dir()), None)
    if base is None:
        raise ModelError(f"{adapter}: base_model_name_or_path: expected a directory, got {name!r}")
    return base


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
    raise ModelError(f"{path}: expected weights in *.safetensors, found none (pickled weights are not loaded)")
