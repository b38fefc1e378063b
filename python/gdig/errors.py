"""The errors that gdig raises. A message says what was given, where, what was expected and what to do."""

from __future__ import annotations

from gdig._native import GdigError, StoreError

__all__ = [
    "ConfigError",
    "CorpusError",
    "GdigError",
    "InputError",
    "ModelError",
    "NotFittedError",
    "OtherRankError",
    "RunError",
    "StoreError",
]


class ConfigError(GdigError):
    """An option has a value that gdig cannot use."""


class CorpusError(GdigError):
    """gdig cannot use an input file or one of its rows; the message names file, row and field."""


class ModelError(GdigError):
    """gdig cannot load the model, or cannot take gradients of the chosen layers."""


class RunError(GdigError):
    """The run directory is of another configuration or of other inputs, or its inputs have changed."""


class InputError(GdigError, ValueError):
    """An array, a weight or a parameter does not suit the function that got it."""


class NotFittedError(GdigError, ValueError, AttributeError):
    """An estimator is used before `fit`. Where scikit-learn is imported, it is also scikit-learn's NotFittedError."""


class OtherRankError(GdigError):
    """Another of several processes has failed, and has printed why. `status` is the exit status of all."""

    def __init__(self, status: int) -> None:
        super().__init__("another rank has failed")
        self.status = status


CODES: dict[type[Exception], str] = {
    ConfigError: "G1",
    CorpusError: "G2",
    ModelError: "G3",
    RunError: "G4",
    StoreError: "G5",
    InputError: "G6",
    NotFittedError: "G7",
    OtherRankError: "G8",
    GdigError: "G9",
    OSError: "G10",
}
"""The code of each kind of error, which docs/errors.md explains. A code is never given to another kind."""


def code_of(error: Exception) -> str:
    """Return the code of an error: that of its own class, or of the nearest base class."""
    return next(CODES[kind] for kind in type(error).__mro__ if kind in CODES)
