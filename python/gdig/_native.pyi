"""The Rust core. gdig.store, gdig.kmeans and gdig.resampling check the arguments and explain the functions."""

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Protocol, final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "GdigError",
    "HeldRows",
    "SharedWords",
    "Store",
    "StoreError",
    "best_rows",
    "bids",
    "content_checksum",
    "damage_of",
    "draw_rows",
    "facility",
    "g2is",
    "gist_scores",
    "kernels",
    "kmeans_fit",
    "kmeans_label_damage",
    "kmeans_predict",
    "kmeans_write_labels",
    "label_counts",
    "neighbours",
    "neighbours_by_clusters",
    "read_tensors",
    "resample",
    "resample_files",
    "round_robin",
    "row_columns",
    "row_hash",
    "sample_rows",
    "seed_means",
    "self_filter",
    "survey",
    "tagcos",
    "verify_file",
    "write_tensors",
]

# The most that a selection may hold: a number of rows, or a number of tokens.
_Limit = tuple[Literal["rows", "tokens"], int]

# How influence becomes votes and a score (gdig.selection.judge.Judge).
class _Judge(Protocol):
    @property
    def score(self) -> str: ...
    @property
    def tasks(self) -> NDArray[np.int64] | None: ...
    @property
    def baselines(self) -> NDArray[np.float64] | None: ...
    @property
    def cuts(self) -> NDArray[np.float64] | None: ...

class GdigError(Exception): ...
class StoreError(GdigError): ...

# Rows in float16, which are compared by cosine.
@final
class HeldRows:
    def __new__(cls, dim: int) -> HeldRows: ...
    def __len__(self) -> int: ...
    def truncate(self, n: int) -> None: ...
    def add(self, x: NDArray[np.float16]) -> None: ...
    def nearest(
        self, x: NDArray[np.float16], floor: float, *, n_threads: int = 0
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]: ...
    def admit(
        self,
        x: NDArray[np.float16],
        floor: float,
        *,
        n_threads: int = 0,
        callback: Callable[[int, int], object] | None = None,
    ) -> NDArray[np.bool_]: ...

# The runs of words of an evaluation set, whose entries have one text or more.
@final
class SharedWords:
    def __new__(cls, entries: list[list[str]]) -> SharedWords: ...
    @property
    def common(self) -> int: ...
    @property
    def empty(self) -> int: ...
    def find(
        self, rows: list[list[str]], *, n_threads: int = 0
    ) -> tuple[
        tuple[NDArray[np.int32], NDArray[np.int32]],
        tuple[
            NDArray[np.int32],
            NDArray[np.int32],
            NDArray[np.int32],
            NDArray[np.int32],
            NDArray[np.uint64],
            NDArray[np.int32],
            NDArray[np.uint64],
        ],
    ]: ...
    @staticmethod
    def excerpt(text: str, start: int, n: int) -> str: ...

@final
class Store:
    def masked(self, mask: NDArray[np.uint8]) -> Store: ...
    def origin_of(self, stop: int) -> str: ...
    def extend_shard(self, index: int, before: int, sketch: NDArray[Any], tensors: dict[str, NDArray[Any]]) -> None: ...
    @property
    def dim(self) -> int: ...
    @property
    def dtype(self) -> str: ...
    @property
    def rows_per_shard(self) -> int: ...
    @property
    def made_from(self) -> str: ...
    @staticmethod
    def create(path: str | PathLike[str], dim: int, dtype: str, rows_per_shard: int, overwrite: bool) -> Store: ...
    @staticmethod
    def describe(path: str | PathLike[str], dim: int, dtype: str, rows_per_shard: int, made_from: str) -> Store: ...
    @staticmethod
    def expected(path: str | PathLike[str], dim: int, dtype: str, rows_per_shard: int, made_from: str) -> Store: ...
    @staticmethod
    def open(path: str | PathLike[str]) -> Store: ...
    def __len__(self) -> int: ...
    def shard_indices(self) -> list[int]: ...
    def missing(self, n_rows: int) -> list[int]: ...
    def damage(self, n_rows: int) -> list[tuple[int, tuple[str, str]]]: ...
    def append(self, rows: NDArray[Any]) -> None: ...
    def flush(self) -> None: ...
    def write_shard(self, index: int, sketch: NDArray[Any], tensors: dict[str, NDArray[Any]]) -> None: ...
    def shard_len(self, index: int) -> int: ...
    def layout(self, index: int) -> dict[str, tuple[str, list[int], int]]: ...
    def rows_float32(self, index: int) -> NDArray[np.float32]: ...
    def verify(self) -> tuple[int, int, int, list[int]]: ...

def write_tensors(path: str | PathLike[str], tensors: dict[str, NDArray[Any]], metadata: dict[str, str]) -> int: ...
def read_tensors(
    path: str | PathLike[str], made_from: str | None = None
) -> tuple[dict[str, NDArray[Any]], dict[str, str]]: ...
def content_checksum(path: str | PathLike[str]) -> str: ...
def damage_of(files: list[tuple[PathLike[str], str | None]]) -> list[tuple[str, str] | None]: ...
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
    weights: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float32], float, int, NDArray[np.uint64]] | None: ...
def kmeans_label_damage(
    store: Store,
    n_rows: int,
    centroids: NDArray[np.float32] | None,
    unit_normalize: bool,
    directory: str | PathLike[str],
) -> list[tuple[int, tuple[str, str]]]: ...
def kmeans_predict(
    x: Store | NDArray[Any],
    centroids: NDArray[np.float32],
    unit_normalize: bool,
    n_threads: int,
    kernel: str | None,
) -> tuple[NDArray[np.uint32], NDArray[np.float32]]: ...
def kmeans_write_labels(
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
def seed_means(store: Store) -> NDArray[np.float64]: ...
def survey(
    store: Store, judge: _Judge
) -> tuple[int, int, NDArray[np.uint64], NDArray[np.uint64], int, float, float]: ...
def best_rows(store: Store, judge: _Judge | None, limit: _Limit) -> NDArray[np.int64]: ...
def draw_rows(
    store: Store,
    labels: str | PathLike[str] | None,
    judge: _Judge,
    *,
    least_votes: int,
    order: str,
    scale: float,
    quotas: str,
    limit: _Limit,
    random_seed: int,
) -> NDArray[np.int64]: ...
def row_columns(
    store: Store, labels: str | PathLike[str] | None, rows: NDArray[np.int64], judge: _Judge
) -> dict[str, NDArray[Any]]: ...
def bids(
    influence: Store | NDArray[np.float32],
    budget: int,
    valid: NDArray[np.uint8] | None = None,
    n_threads: int = 0,
) -> tuple[NDArray[np.int64], NDArray[np.uint32], NDArray[np.float64], int]: ...
def round_robin(
    matrix: Store | NDArray[np.float32],
    tasks: list[list[int]],
    budget: int,
    *,
    valid: NDArray[np.uint8] | None = None,
    make: Callable[[int], NDArray[np.float32]] | None = None,
    n_threads: int = 0,
) -> tuple[NDArray[np.int64], NDArray[np.uint32], NDArray[np.uint64], NDArray[np.float32], int]: ...
def gist_scores(
    influence: Store | NDArray[np.float32],
    projection: NDArray[np.float64],
    directions: NDArray[np.float64],
    valid: NDArray[np.uint8] | None = None,
    n_threads: int = 0,
) -> tuple[NDArray[np.float64], NDArray[np.uint32]]: ...
def facility(
    neighbours: NDArray[np.uint32], cosines: NDArray[np.float32], valid: NDArray[np.uint8], budget: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]: ...
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
