"""The label files of :meth:`gdig.KMeans.write_labels`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from gdig import _native
from gdig.errors import StoreError
from gdig.store.sketches import SketchStore
from gdig.store.tensor_file import Damage, read_tensors

if TYPE_CHECKING:
    from gdig.kmeans.model import KMeans


def load_labels(directory: str | Path) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Read and verify the files of :meth:`gdig.KMeans.write_labels`.

    Returns:
        The labels [N] int32, -1 for an invalid row; and the distances [N] float32.

    Raises:
        StoreError: if there are no files, if a file is damaged, or if a file before the last one is missing.
    """
    paths = sorted(Path(directory).glob("[0-9]*.safetensors"))
    if not paths:
        raise StoreError(f"{directory}: no labels there: expected the files of KMeans.write_labels")
    labels, distances, rows = [], [], 0
    for path in paths:
        tensors, metadata = read_tensors(path)
        if metadata.get("first_row") != str(rows) or not {"labels", "distances"} <= tensors.keys():
            raise StoreError(f"{path}: metadata {metadata!r:.200}: expected labels and distances from row {rows} on")
        labels.append(as_int32(tensors["labels"]))
        distances.append(tensors["distances"])
        rows += len(labels[-1])
    return np.concatenate(labels), np.concatenate(distances)


def label_damage(
    store: SketchStore, n_rows: int, directory: str | Path, kmeans: KMeans | None
) -> tuple[dict[int, Damage], list[int]]:
    """Read the label files of a store of `n_rows` rows.

    A file is compared with its checksum, its shard and the centroids, as far as these are there: without its shard,
    with the centroids alone; without `kmeans`, with its shard alone. A kernel that rounds in another way may have made
    it.

    Returns:
        What is wrong with those that are there, by shard; and the shards that have none.
    """
    centroids, unit_normalize = (kmeans.cluster_centers_, kmeans.unit_normalize) if kmeans else (None, False)
    damage = _native.kmeans_label_damage(store._native, n_rows, centroids, unit_normalize, directory)
    present = [int(path.stem) for path in Path(directory).glob("*.safetensors") if re.fullmatch(r"[0-9]+", path.stem)]
    absent = sorted(set(range(-(-n_rows // store.rows_per_shard))).difference(present))
    return {shard: Damage(*cast(Any, what)) for shard, what in damage}, absent


def as_int32(labels: NDArray[np.uint32]) -> NDArray[np.int32]:
    """Return labels of the core as int32: the label of an invalid row, 4294967295, becomes -1."""
    return labels.view(np.int32)
