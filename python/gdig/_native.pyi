"""The Rust core. Use it through gdig.store, gdig.kmeans and gdig.resampling, which check and explain."""

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "GdigError",
    "Store",
    "StoreError",
    "best_rows",
    "bids",
    "draw_rows",
    "g2is",
    "kernels",
    "kmeans_fit",
    "kmeans_predict",
    "kmeans_predict_to",
    "label_counts",
    "neighbours",
    "neighbours_by_clusters",
    "read_tensors",
    "resample",
    "resample_files",
    "row_columns",
    "row_hash",
    "sample_rows",
    "self_filter",
    "survey",
    "tagcos",
    "verify_file",
    "write_tensors",
]

# How much a selection may take: rows, or the sum of their tokens.
_Limit = tuple[Literal["rows", "tokens"], int]

class GdigError(Exception): ...
class StoreError(GdigError): ...

@final
class Store:
    @property
    def dim(self) -> int: ...
    @property
    def dtype(self) -> str: ...
    @property
    def rows_per_shard(self) -> int: ...
    @staticmethod
    def create(path: str | PathLike[str], dim: int, dtype: str, rows_per_shard: int, overwrite: bool) -> Store: ...
    @staticmethod
    def open(path: str | PathLike[str]) -> Store: ...
    def __len__(self) -> int: ...
    def shard_indices(self) -> list[int]: ...
    def missing(self, n_rows: int) -> list[int]: ...
    def append(self, rows: NDArray[Any]) -> None: ...
    def flush(self) -> None: ...
    def write_shard(self, index: int, sketch: NDArray[Any], tensors: dict[str, NDArray[Any]]) -> None: ...
    def shard_len(self, index: int) -> int: ...
    def layout(self, index: int) -> dict[str, tuple[str, list[int], int]]: ...
    def rows_float32(self, index: int) -> NDArray[np.float32]: ...
    def verify(self) -> tuple[int, int, int, list[int]]: ...

def write_tensors(path: str | PathLike[str], tensors: dict[str, NDArray[Any]], metadata: dict[str, str]) -> int: ...
def read_tensors(path: str | PathLike[str]) -> tuple[dict[str, NDArray[Any]], dict[str, str]]: ...
def verify_file(path: str | PathLike[str]) -> int: ...
def kmeans_fit(
    x: Store | NDArray[Any],
    n_clusters: int,
    *,
    init: NDArray[np.float32] | None,
    max_iter: int,
    tol: float,
    random_state: int,
    train_rows: int | None,
    unit_normalize: bool,
    n_threads: int,
    kernel: str | None,
    callback: Callable[[int, float, float], object] | None,
    resume_file: str | PathLike[str] | None,
    peers: Any | None = None,
) -> tuple[NDArray[np.float32], float, int, NDArray[np.uint64]] | None: ...
def kmeans_predict(
    x: Store | NDArray[Any],
    centroids: NDArray[np.float32],
    unit_normalize: bool,
    n_threads: int,
    kernel: str | None,
) -> tuple[NDArray[np.uint32], NDArray[np.float32]]: ...
def kmeans_predict_to(
    x: Store | NDArray[Any],
    centroids: NDArray[np.float32],
    unit_normalize: bool,
    n_threads: int,
    kernel: str | None,
    directory: str | PathLike[str],
    rows_per_shard: int,
    callback: Callable[[int, int], object] | None,
    shards: tuple[int, int] | None,
) -> list[Path]: ...
def kernels() -> list[str]: ...
def neighbours(
    x: Store | NDArray[Any],
    k: int,
    *,
    kernel: str | None = None,
    n_threads: int = 0,
    callback: Callable[[int, int], object] | None = None,
) -> tuple[NDArray[np.uint32], NDArray[np.float32]]: ...
def neighbours_by_clusters(
    x: Store | NDArray[Any],
    k: int,
    *,
    labels: NDArray[np.uint32],
    centroids: NDArray[np.float32],
    n_probe: int,
    sample: int,
    random_seed: int,
    kernel: str | None = None,
    n_threads: int = 0,
    callback: Callable[[int, int], object] | None = None,
) -> tuple[NDArray[np.uint32], NDArray[np.float32], list[float]]: ...
def g2is(
    x: Store | NDArray[Any],
    neighbours: NDArray[np.uint32],
    cosines: NDArray[np.float32],
    *,
    directions: NDArray[np.float64],
    weights: NDArray[np.float64],
    ratio: float,
    limit: _Limit,
    tokens: NDArray[np.uint32] | None = None,
    n_threads: int = 0,
    callback: Callable[[int, int], object] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.uint32], NDArray[np.uint8], NDArray[np.float32], list[bool]]: ...
def self_filter(
    x: Store | NDArray[Any],
    neighbours: NDArray[np.uint32],
    cosines: NDArray[np.float32],
    *,
    difficulty: NDArray[np.float32],
    k: int,
    gamma: float,
    limit: _Limit,
    tokens: NDArray[np.uint32] | None = None,
    n_threads: int = 0,
    callback: Callable[[int, int], object] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32], int]: ...
def resample(
    labels: NDArray[Any],
    budget: int,
    random_seed: int,
    weights: NDArray[Any] | None,
    priority: NDArray[Any] | None,
    costs: NDArray[Any] | None,
    quotas: str,
) -> NDArray[np.int64]: ...
def resample_files(labels: str | PathLike[str], budget: int, random_seed: int, quotas: str) -> NDArray[np.int64]: ...
def label_counts(labels: str | PathLike[str]) -> NDArray[np.uint64]: ...
def sample_rows(n: int, k: int, random_seed: int, eligible: NDArray[np.uint8] | None) -> NDArray[np.int64]: ...
def row_hash(random_seed: int, rows: NDArray[np.int64]) -> NDArray[np.uint64]: ...
def survey(
    store: Store, score: str, tasks: NDArray[np.int64] | None = None
) -> tuple[int, int, NDArray[np.uint64], NDArray[np.uint64], int, float]: ...
def best_rows(store: Store, by: str, limit: _Limit) -> NDArray[np.int64]: ...
def draw_rows(
    store: Store,
    labels: str | PathLike[str] | None,
    *,
    least_votes: int,
    by_score: str | None,
    quotas: str,
    limit: _Limit,
    random_seed: int,
    tasks: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]: ...
def row_columns(
    store: Store,
    labels: str | PathLike[str] | None,
    rows: NDArray[np.int64],
    score: str,
    tasks: NDArray[np.int64] | None = None,
) -> dict[str, NDArray[Any]]: ...
def bids(
    influence: Store | NDArray[np.float32],
    budget: int,
    valid: NDArray[np.uint8] | None = None,
    n_threads: int = 0,
) -> tuple[NDArray[np.int64], NDArray[np.uint32], NDArray[np.float64], int]: ...
def tagcos(
    store: Store,
    labels: str | PathLike[str],
    *,
    budget: int,
    random_seed: int,
    unit_normalize: bool,
    ridge: float,
    tolerance: float,
    n_threads: int = 0,
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_], int, int, float]: ...
