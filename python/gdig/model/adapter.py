"""The directory of a PEFT adapter: its base model, and the size of its vocabulary."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from gdig.errors import ModelError
from gdig.model.hub import model_folder
from gdig.patterns import PatternError, search

ADAPTER_CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_EMBEDDINGS = re.compile(
    r"\.(?:(embed_tokens|wte|word_embeddings|embed_in|tok_embeddings)|lm_head|embed_out)(?:\.base_layer)?\.weight$"
)
"""Whole embeddings and heads, which an adapter's file holds beside its own matrices after they were resized."""

_PATTERNS = {
    "target_modules": "^(?:{})$",
    "exclude_modules": "^(?:{})$",
    "layers_pattern": r"^(?:^|.*?\.){}\.(?P<idx>\d+)\.",
    "rank_pattern": r"^(.*\.)?({})$",
    "alpha_pattern": r"^(.*\.)?({})$",
    "modules_to_save": r"^(^|.*\.){}($|\..*)",
}
"""Options of adapter_config.json that peft takes as regular expressions, and the form in which it does."""
_ONE_PATTERN = ("target_modules", "exclude_modules")
"""A pattern as one text. A list of these has names."""


def is_adapter(path: Path) -> bool:
    """Whether a directory holds a PEFT adapter."""
    return (path / ADAPTER_CONFIG).is_file()


def require_safetensors(path: Path) -> None:
    """Raise ModelError unless the adapter in `path` has its weights in safetensors. A pickle can run any code.

    peft itself would open an adapter_model.bin, or ask the Hugging Face hub for a file that is not there.
    """
    if not (path / WEIGHTS).is_file():
        raise ModelError(f"{path}: expected the adapter's weights in {WEIGHTS}, found none (pickles are not opened)")


def check_patterns(path: Path, base: nn.Module) -> None:
    """Search for the patterns of an adapter's configuration in the names of the base model's modules, as peft does.

    Raises:
        ModelError: if one is no regular expression, or takes too long; peft would search without a limit.
    """
    file = path / ADAPTER_CONFIG
    try:
        options = json.loads(file.read_text(encoding="utf-8"))
        patterns = [form.format(text) for key, form in _PATTERNS.items() for text in _texts(options.get(key), key)]
        if patterns:
            search(patterns, [name for name, _ in base.named_modules()])
    except PatternError as error:
        raise ModelError(f"{file}: a pattern in {', '.join(k for k in _PATTERNS if options.get(k))}: {error}") from None
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise ModelError(f"{file}: expected a JSON object: {error!r}") from None


def _texts(value: Any, key: str) -> list[str]:
    """The patterns in an option: a text, or the items of a list or the keys of an object that peft takes as such."""
    if isinstance(value, str):
        return [value]
    listed = isinstance(value, (list, dict)) and key not in _ONE_PATTERN
    return [text for text in value if isinstance(text, str)] if listed else []


def base_directory(path: Path, given: str | None) -> Path:
    """The directory of an adapter's base model.

    It is `given`, or what adapter_config.json names: a directory, also one inside the adapter's, or a model of the
    Hugging Face hub.

    Raises:
        ModelError: when there is none.
    """
    base = _base_directory(path, given)
    if is_adapter(base):  # transformers would load it as one, pickles included
        raise ModelError(f"{base}: expected the base model of an adapter, got another adapter ({ADAPTER_CONFIG})")
    return base


def _base_directory(path: Path, given: str | None) -> Path:
    if given is not None:
        return model_folder(given, "base_model")
    file = path / ADAPTER_CONFIG
    try:
        options = json.loads(file.read_text(encoding="utf-8"))
        name, revision = str(options["base_model_name_or_path"]), options.get("revision")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{file}: expected a JSON object with base_model_name_or_path: {error!r}") from None
    try:
        inside = next((p for p in (Path(name), path / name) if p.is_dir()), None)
        return inside if inside is not None else model_folder(name, "base_model_name_or_path", revision)
    except OSError as error:  # a name that no directory can have
        raise ModelError(f"{file}: base_model_name_or_path: {error.strerror}: {name[:100]}") from None
    except ModelError as error:
        raise ModelError(f"{file}: {error}; or name its directory with base_model") from None


def resized_vocabulary(path: Path) -> int | None:
    """The words of the embeddings that an adapter's file holds, where a tokenizer with more words has changed them.

    None when the file holds no embeddings.
    """
    return max(_vocabularies(path).values(), default=None)


def resize_vocabulary(base: Any, path: Path) -> None:
    """Give the base model the vocabulary of the adapter in `path`, whose file brings the weights.

    Raises:
        ModelError: when the file does not bring all of them.
    """
    vocabularies = _vocabularies(path)
    words, embeddings = resized_vocabulary(path), base.get_input_embeddings()
    if words is None or words == embeddings.weight.shape[0]:
        return
    head: nn.Module | None = base.get_output_embeddings()
    tied = head is not None and getattr(head, "weight", None) is embeddings.weight
    expected = {"embeddings"} if tied or head is None else {"embeddings", "head"}
    if missing := sorted(expected - {kind for kind, size in vocabularies.items() if size == words}):
        raise ModelError(
            f"{path}: expected the resized {' and '.join(missing)} for {words} words in the adapter, found none; save "
            "the adapter with save_embedding_layers=True"
        )
    base.resize_token_embeddings(words, mean_resizing=False)


def _vocabularies(path: Path) -> dict[str, int]:
    """Rows of the whole "embeddings" and "head" in an adapter's file."""
    file = path / WEIGHTS
    if not file.is_file():
        return {}
    try:
        with safe_open(file, framework="pt") as tensors:
            rows = {}
            for name in tensors.keys():  # noqa: SIM118  # no mapping
                if match := _EMBEDDINGS.search(name):
                    rows["embeddings" if match[1] else "head"] = tensors.get_slice(name).get_shape()[0]
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{file}: cannot be read: {error}") from None
    return rows
