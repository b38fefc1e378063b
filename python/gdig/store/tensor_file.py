"""Tensor files: one safetensors file with a checksum, complete or absent."""

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
        tensors: arrays of float16/32/64, int8/32/64 or uint8/32/64; bool becomes uint8. An array that is not
            C-contiguous is copied.
        metadata: strings to store beside the tensors.

    Raises:
        StoreError: if the file cannot be written; then there is no new file.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    _native.write_tensors(path, contiguous(tensors), dict(metadata or {}))


def contiguous(tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return each tensor as a C-contiguous array. A C-contiguous array is not copied."""
    return {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}


def read_tensors(path: str | Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Read and verify a file that :func:`write_tensors` or a store wrote.

    NumPy lacks bfloat16, so a bfloat16 tensor is returned as the uint16 of its bits.

    Returns:
        The tensors and the metadata, each by name.

    Raises:
        StoreError: if the file is absent or damaged; the message names the file and the damage.
    """
    return _native.read_tensors(path)


def verify_file(path: str | Path) -> int:
    """Read one file and compare its checksum.

    Returns:
        The length of the file in bytes.

    Raises:
        StoreError: if the file is absent or damaged; the message names the file and the damage.
    """
    return _native.verify_file(path)
