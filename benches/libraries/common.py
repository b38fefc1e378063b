"""What the comparisons with other libraries share: are they there, examples as they take them, and silence."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gdig.data.tokens import Example


class AbsentError(Exception):
    """A library that is not installed; the message says how it failed."""


def versions() -> dict[str, str | None]:
    """Installed versions of the libraries, None for one that is absent."""
    versions_by_name: dict[str, str | None] = {}
    for name in ("kronfluence", "bergson"):
        try:
            versions_by_name[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions_by_name[name] = None
    return versions_by_name


def need(name: str) -> None:
    """Import a library.

    Raises:
        AbsentError: when it cannot be imported.
    """
    try:
        importlib.import_module(name)
    except ImportError as error:
        raise AbsentError(f"{name} cannot be imported: {error}") from error


class Sorted(torch.utils.data.Dataset):
    """Examples by falling length; order [n] int64 says where each came from."""

    def __init__(self, examples: Sequence[Example]) -> None:
        lengths = np.array([len(example) for example in examples])
        self.order = torch.from_numpy(np.argsort(-lengths, kind="stable"))
        self._examples = [examples[i] for i in self.order.tolist()]

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        return self._examples[index]


def dataset(examples: Sequence[Example]) -> Any:
    """Examples as a `datasets.Dataset` of input_ids, labels and length."""
    from datasets import Dataset

    return Dataset.from_dict(
        {
            "input_ids": [example.input_ids for example in examples],
            "labels": [example.labels for example in examples],
            "length": [len(example) for example in examples],
        }
    )


def quiet(run: Callable[[Sequence[Example]], object]) -> Callable[[Sequence[Example]], object]:
    """Without the bars and lines that libraries print."""

    def silent(examples: Sequence[Example]) -> object:
        with discarded():
            return run(examples)

    return silent


@contextlib.contextmanager
def discarded() -> Iterator[None]:
    """Throw away what is printed, logged and warned of."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            Path(os.devnull).open("w") as nowhere,
            contextlib.redirect_stderr(nowhere),
            contextlib.redirect_stdout(nowhere),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
