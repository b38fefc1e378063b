"""What a report says, as plain values. The page is made from them alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class RowCard:
    """A row that the report names.

    text: its own fields, shortened. source: by its number. place: in the selection, from 1; None if it is not chosen.
    helped, harmed: (seed, influence) of the greatest effects. near: (row, cosine) of the nearest rows of the map.
    reasons: of the method, for a chosen row.
    """

    row: int
    text: str
    where: str
    source: int
    loss: float
    tokens: int
    score: float | None = None
    agreement: float | None = None
    cluster: int | None = None
    place: int | None = None
    helped: tuple[tuple[int, float], ...] = ()
    harmed: tuple[tuple[int, float], ...] = ()
    near: tuple[tuple[int, float], ...] = ()
    reasons: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Histogram:
    """Shares of the pool and of the chosen rows in bins. edges: [n + 1]. pool, chosen: [n], shares that add up to 1.
    pool_median, chosen_median: NaN without rows."""

    name: str
    edges: tuple[float, ...]
    pool: tuple[float, ...]
    chosen: tuple[float, ...]
    pool_median: float
    chosen_median: float


@dataclass(frozen=True)
class Map:
    """A sample of the pool in the plane. rows: of the pool. pca, layout: x and y of each. explained: share of the
    variance that the two components have."""

    rows: tuple[int, ...]
    pca: tuple[tuple[float, float], ...]
    layout: tuple[tuple[float, float], ...]
    explained: float


@dataclass(frozen=True)
class ClusterCard:
    """A cluster. words: characteristic of its rows. examples: rows nearest to the centroid. score: mean."""

    number: int
    rows: int
    chosen: int
    score: float | None
    words: tuple[str, ...]
    examples: tuple[int, ...]


@dataclass(frozen=True)
class SourceLine:
    """A source of the pool. score: mean of its valid rows."""

    name: str
    rows: int
    chosen: int
    tokens: int
    score: float | None


@dataclass(frozen=True)
class TaskLine:
    """A task of the seeds. pool, chosen: mean influence on its seeds."""

    name: str
    seeds: int
    pool: float
    chosen: float | None


@dataclass(frozen=True)
class SeedLine:
    """A seed. pool, chosen: share of the rows that help it. agreement: correlation with the mean of the other seeds.
    outvoted: the others contradict it. hard: its loss is far above that of the other seeds."""

    seed: int
    text: str
    loss: float
    pool: float
    chosen: float | None
    agreement: float
    outvoted: bool
    hard: bool


@dataclass(frozen=True)
class Repeats:
    """pool: rows that repeat another. equal_to_a_seed: rows. chosen: chosen rows that repeat an earlier one.
    compared: the first chosen rows, of which all pairs are compared. near: how many pairs of these are near-repeats.
    pairs: (row, row, cosine), the nearest first."""

    pool: int
    equal_to_a_seed: int
    chosen: int
    compared: int
    near: int
    pairs: tuple[tuple[int, int, float], ...]


@dataclass(frozen=True)
class Overlap:
    """names: of methods. shares: of each method's rows, those that the other has too, [m, m]. chosen: share of the
    selection that each method has too."""

    names: tuple[str, ...]
    shares: tuple[tuple[float, ...], ...]
    chosen: tuple[float, ...]


@dataclass(frozen=True)
class Votes:
    """voters: seeds or tasks. kind: their name. counts: valid rows with 0, 1, ... votes. threshold: least votes that a
    chosen row needs; None where the choice goes by no threshold."""

    voters: int
    kind: str
    counts: tuple[int, ...]
    threshold: int | None
    reliability: float | None


@dataclass(frozen=True)
class ReportFacts:
    """All that a report says. counted: rows that the distributions are of; all valid ones, or a sample.
    n_...: how many there are, where the page lists the first of them."""

    run: str
    method: str
    chosen_file: str | None
    figures: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    asked: tuple[tuple[str, str], ...]
    inputs: tuple[tuple[str, str, int], ...]
    n_inputs: int
    stages: tuple[tuple[str, float], ...]
    versions: tuple[tuple[str, str], ...]
    counts: tuple[tuple[str, int], ...]
    counted: int
    valid: int
    histograms: tuple[Histogram, ...]
    votes: Votes | None
    map: Map | None
    clusters: tuple[ClusterCard, ...]
    n_clusters: int
    sources: tuple[SourceLine, ...]
    n_sources: int
    tasks: tuple[TaskLine, ...]
    n_tasks: int
    seeds: tuple[SeedLine, ...]
    n_seeds: int
    best: tuple[int, ...]
    worst: tuple[int, ...]
    edge: tuple[int, ...]
    best_by: str
    repeats: Repeats
    overlap: Overlap | None
    chosen: tuple[int, ...]
    n_chosen: int
    rows: dict[int, RowCard]

    def as_json(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return asdict(self)
