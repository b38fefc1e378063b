"""The errors that gdig raises. A message says what was given, where, what was expected and what to do.

Programs catch the families, which `gdig` names too. A kind below a family has a code of its own, because there is
another thing to do.
"""

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


class MissingOptionError(ConfigError):
    """An option that is required is not given."""


class UnknownNameError(ConfigError):
    """A command, an option or a key has a name that gdig does not know."""


class AmountError(ConfigError):
    """An option asks for more than the pool holds: of the budget, clusters or neighbours."""


class NeedsError(ConfigError):
    """A method needs what the run does not have: gradients, clusters, training checkpoints, sketches in the metric."""


class NoRunError(ConfigError):
    """A directory that has to hold a run holds none."""


class CorpusError(GdigError):
    """gdig cannot use an input file or one of its rows; the message names file, row and field."""


class MissingFileError(CorpusError):
    """An input file, a folder or a dataset of the hub is not there, or cannot be opened."""


class BadRowError(CorpusError):
    """A row cannot be used: it lacks a field, a value is of another kind, or nothing of it is trained on."""


class UnknownFormatError(CorpusError):
    """A file is of no kind that gdig reads, or its fields are those of no row format."""


class ChangedFileError(CorpusError):
    """An input file has changed while gdig worked with it."""


class OutputError(CorpusError):
    """The selected rows cannot be written, or cannot be read back."""


class ModelError(GdigError):
    """gdig cannot load the model, or cannot take gradients of the chosen layers."""


class MissingModelError(ModelError):
    """A model, a tokenizer or its weights are not where the option says."""


class MissingPackageError(ModelError):
    """A package that the option needs is not installed."""


class LayerError(ModelError):
    """The choice of layers gives none, or one that gdig cannot take gradients of."""


class MemoryShortError(ModelError):
    """The device has too little memory."""


class NotFiniteError(ModelError):
    """A loss or a gradient is not finite, or a training has diverged."""


class OptimizerStateError(ModelError):
    """The optimizer's state of a training checkpoint is absent, damaged, or of another model."""


class RunError(GdigError):
    """The run directory is of another configuration or of other inputs, or its inputs have changed."""


class OtherRunError(RunError):
    """The run has other options or other inputs than those given."""


class BusyRunError(RunError):
    """Another process is at work in the run directory."""


class UnfinishedRunError(RunError):
    """A stage that the command needs is not done."""


class DiskError(RunError):
    """The disk of the run directory is full, or cannot be written."""


class RecordError(RunError):
    """run.json is damaged, was changed by hand, or is of another version."""


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
    ConfigError: "G100",
    MissingOptionError: "G101",
    UnknownNameError: "G102",
    AmountError: "G103",
    NeedsError: "G104",
    NoRunError: "G105",
    CorpusError: "G200",
    MissingFileError: "G201",
    BadRowError: "G202",
    UnknownFormatError: "G203",
    ChangedFileError: "G204",
    OutputError: "G205",
    ModelError: "G300",
    MissingModelError: "G301",
    MissingPackageError: "G302",
    LayerError: "G303",
    MemoryShortError: "G304",
    NotFiniteError: "G305",
    OptimizerStateError: "G306",
    RunError: "G400",
    OtherRunError: "G401",
    BusyRunError: "G402",
    UnfinishedRunError: "G403",
    DiskError: "G404",
    RecordError: "G405",
    StoreError: "G500",
    InputError: "G600",
    NotFittedError: "G601",
    OtherRankError: "G700",
    GdigError: "G800",
    OSError: "G900",
}
"""The code of each kind of error, which docs/errors.md explains. A code is never given to another kind."""


def code_of(error: Exception) -> str:
    """Return the code of an error: that of its own class, or of the nearest base class."""
    return next(CODES[kind] for kind in type(error).__mro__ if kind in CODES)
