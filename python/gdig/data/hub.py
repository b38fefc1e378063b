"""Datasets of the Hugging Face hub by name, through the cache of `datasets`. HF_HUB_OFFLINE reads the cache alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from gdig.data.arrow_rows import ArrowRows, open_dataset
from gdig.errors import CorpusError, MissingFileError

_NAME = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(?::(?P<config>[^/:]+))?(?:/(?P<split>[\w.-]+))?")

_LONGEST_REASON = 300


@dataclass(frozen=True)
class HubDataset:
    """A dataset of the hub, `org/name[:config][/split]`."""

    name: str
    config: str | None = None
    split: str | None = None

    def __str__(self) -> str:
        config = f":{self.config}" if self.config else ""
        return f"{self.name}{config}" + (f"/{self.split}" if self.split else "")


def hub_dataset(name: str) -> HubDataset | None:
    """Return what a name of a dataset means. None if it is no such name."""
    match = _NAME.fullmatch(name)
    return None if match is None or name.startswith(".") else HubDataset(**match.groupdict())


def open_hub_dataset(dataset: HubDataset, name: str) -> ArrowRows:
    """Open a split of a dataset, downloading it where the cache does not hold it.

    Args:
        dataset: its name. The split may be left out if there is only one.
        name: what the rows are for. Errors begin with it.

    Raises:
        CorpusError: if there is no such dataset, config or split, or it is neither in the cache nor in reach.
    """
    import datasets

    try:
        rows = datasets.load_dataset(dataset.name, dataset.config, split=dataset.split, keep_in_memory=False)
    except Exception as error:  # datasets, huggingface_hub and its HTTP client raise many kinds of errors
        reason = " ".join(str(error).split())[:_LONGEST_REASON] or type(error).__name__
        raise MissingFileError(
            f"{name}: {dataset}: no such file or folder, and it cannot be read as a dataset of the Hugging Face hub:"
            f" {reason}; check the name (org/name[:config][/split]), the network and HF_HUB_OFFLINE"
        ) from None
    if isinstance(rows, datasets.DatasetDict):
        if len(rows) != 1:
            example = HubDataset(dataset.name, dataset.config, next(iter(rows)))
            raise CorpusError(
                f"{name}: {dataset}: holds several splits ({', '.join(rows)}); name one, for instance {example}"
            )
        (rows,) = rows.values()
    return open_dataset(Path(str(dataset)), rows)
