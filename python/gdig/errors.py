"""The errors gdig raises. Each message names what was wrong, where, and what was expected."""

from __future__ import annotations

from gdig._native import GdigError, StoreError

__all__ = ["ConfigError", "CorpusError", "GdigError", "ModelError", "OtherRankError", "RunError", "StoreError"]


class ConfigError(GdigError):
    """An option has a value that cannot be used."""


class CorpusError(GdigError):
    """An input file or one of its rows cannot be used; the message names file, row and field."""


class ModelError(GdigError):
    """The model cannot be loaded, or has no layer that the filter chooses."""


class RunError(GdigError):
    """The run directory belongs to another configuration or to other inputs, or its inputs changed."""


class OtherRankError(GdigError):
    """Of several processes another one has failed, and has said why; `status` is the exit status of all."""

    def __init__(self, status: int) -> None:
        super().__init__("another rank has failed")
        self.status = status
