"""Single tensor files: safetensors with a checksum, complete or absent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gdig import _native


def write_tensors(
    path: str | Path, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None
) -> None:
    """Write one safetensors file with a checksum, complete or not at all.

    Args:
        path: the file; missing parent folders are made.
        tensors: arrays of float16/32/64, int8/32/64 or uint8/32/64 (bool becomes uint8); one that is not
            C-contiguous is copied.
        metadata: strings to keep beside them.

    Raises:
        StoreError: if the file cannot be written; nothing is then left of it.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    _native.write_tensors(path, contiguous(tensors), dict(metadata or {}))


def contiguous(tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Each tensor as a C-contiguous array; one that is already is not copied."""
    return {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}


def read_tensors(path: str | Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Return the tensors and the metadata of a file that :func:`write_tensors` or a store wrote, verified.

    bfloat16 comes as the uint16 of its bits.

    Raises:
        StoreError: naming the file and what is wrong with it (absent, truncated, header, checksum).
    """
    return _native.read_tensors(path)


def verify_file(path: str | Path) -> int:
    """Read one file, compare its checksum, and return its length in bytes.

    Raises:
        StoreError: naming the file and what is wrong with it.
    """
    return _native.verify_file(path)
