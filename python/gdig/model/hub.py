"""Models of the Hugging Face hub by name, through its ordinary cache. HF_HUB_OFFLINE reads the cache alone."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from huggingface_hub import constants, snapshot_download

from gdig.errors import MissingModelError, ModelError

_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_FILES = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "*.py"]
"""What a model is loaded from. Weights that are pickled or of other programs are left out."""
_TEXTS, _MOST_TEXT = (".json", ".jinja", ".model", ".txt", ".tiktoken"), 1 << 30
"""Files that are read whole, and the longest of them, in bytes. Tokenizers have some 30 MB."""
_LONGEST_REASON = 300


def model_folder(name: str, option: str = "model", revision: str | None = None) -> Path:
    """Return the directory of a model: `name` itself, or that of a model of the hub, downloaded where it is not cached.

    Args:
        name: a directory, or `org/name`.
        option: what names it. Errors begin with it.
        revision: of a model of the hub. None: its main branch.

    Raises:
        ModelError: if it is neither.
    """
    path = Path(name)
    if path.is_dir():
        _refuse_odd_files(path, option)
        return path
    if not _NAME.fullmatch(name) or name.startswith("."):
        raise MissingModelError(
            f"{option}: expected a directory in Hugging Face format, or the name of a model on the hub (org/name);"
            f" found none at {name}"
        )
    try:
        return _snapshot(name, revision, constants.HF_HUB_CACHE)
    except Exception as error:  # huggingface_hub and its HTTP client raise many kinds of errors
        reason = " ".join(str(error).split())[:_LONGEST_REASON] or type(error).__name__
        raise MissingModelError(
            f"{option}: {name}: expected a directory, or a model of the Hugging Face hub, which cannot be read:"
            f" {reason}; check the name, the network and HF_HUB_OFFLINE, or download it (hf download)"
        ) from None


def _refuse_odd_files(folder: Path, option: str) -> None:
    """Raise ModelError if a directory holds a pipe or a device, which may be read without an end, or a long text.

    transformers reads a text whole.
    """
    for path in folder.iterdir():
        if path.exists() and not path.is_file() and not path.is_dir():
            raise MissingModelError(f"{option}: {path}: expected a file, got something else, such as a pipe")
        if path.suffix in _TEXTS and path.is_file() and (size := path.stat().st_size) > _MOST_TEXT:
            raise ModelError(f"{option}: {path}: expected at most {_MOST_TEXT:,} bytes, got {size:,}")


@cache
def _snapshot(name: str, revision: str | None, cache_dir: str) -> Path:
    """Ask the hub once a process: a model that changes in between would not be one model."""
    return Path(snapshot_download(name, revision=revision, cache_dir=cache_dir, allow_patterns=_FILES))
