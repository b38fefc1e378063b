"""The label files of :meth:`gdig.KMeans.predict_to`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gdig.errors import StoreError
from gdig.store.tensor_file import read_tensors


def load_labels(directory: str | Path) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Read and verify the files of :meth:`gdig.KMeans.predict_to`.

    Returns:
        The labels [N] int32, -1 for an invalid row; and the distances [N] float32.

    Raises:
        StoreError: if there are no files, if a file is damaged, or if a file before the last one is missing.
    """
    paths = sorted(Path(directory).glob("[0-9]*.safetensors"))
    if not paths:
        raise StoreError(f"{directory}: no labels there: expected the files of KMeans.predict_to")
    labels, distances, rows = [], [], 0
    for path in paths:
        tensors, metadata = read_tensors(path)
        if metadata.get("first_row") != str(rows) or not {"labels", "distances"} <= tensors.keys():
            raise StoreError(f"{path}: metadata {metadata}: expected labels and distances from row {rows} on")
        labels.append(as_int32(tensors["labels"]))
        distances.append(tensors["distances"])
        rows += len(labels[-1])
    return np.concatenate(labels), np.concatenate(distances)


def as_int32(labels: NDArray[np.uint32]) -> NDArray[np.int32]:
    """Return labels of the core as int32: the label of an invalid row, 4294967295, becomes -1."""
    return labels.view(np.int32)
