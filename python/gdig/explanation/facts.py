"""What an explanation says, as plain values: JSON, terminal and HTML are made from them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Piece:
    """Some characters of a row as the model saw it: one token, or several that make up a character together.

    text: decoded. target: whether the loss counts the token. influence: mean influence over the seeds of the tokens.
    score: what they add to the score. seeds: influence on each seed that the explanation names, by the seed's number.
    """

    text: str
    target: bool
    influence: float = 0.0
    score: float = 0.0
    seeds: dict[int, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return the text without blanks around it, or a sign for a line's end or for blanks alone."""
        return self.text.strip() or ("↵" if "\n" in self.text else "␣")


@dataclass(frozen=True)
class Seen:
    """A row as the model saw it. tokens, target_tokens, cut: counts. pieces: the text, in order."""

    tokens: int
    target_tokens: int
    cut: int
    pieces: tuple[Piece, ...]

    def strongest(self, most: int = 8) -> list[Piece]:
        """Return the pieces with the largest influence of either sign, the largest first."""
        return sorted(self.pieces, key=lambda piece: -abs(piece.influence))[:most]


@dataclass(frozen=True)
class SeedEffect:
    """What a row does for one seed.

    seed: number of the seed. text: of the seed. influence: on the seed. relative: less the pool's mean where
    relative_to=pool, else the same. rank: of the row among the valid rows by this influence, from 1.
    """

    seed: int
    text: str
    influence: float
    relative: float
    rank: int


@dataclass(frozen=True)
class Place:
    """Where a method puts a row.

    method: its name. chosen: whether the method chooses the row within the budget. place: from 1, in the method's
    order; None where the method has no order beyond its choice. of: rows in that order, or in the choice. reasons: of
    the method, for a row that it chooses.
    """

    method: str
    chosen: bool
    place: int | None
    of: int
    reasons: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class NearRow:
    """Another row of the pool. cosine: of the sketches. repeat: whether it has the same tokens and labels.
    place: in the last selection, from 1; None if it is not chosen."""

    row: int
    text: str
    cosine: float
    repeat: bool
    place: int | None


@dataclass(frozen=True)
class ClusterView:
    """The cluster of a row.

    number: of the cluster. rows: how many it has. distance: of the row to the centroid. nearer: rows of the cluster
    that are nearer to it. chosen: how many rows of the cluster the last selection has. best: the first of these.
    """

    number: int
    rows: int
    distance: float
    nearer: int
    chosen: int
    best: tuple[NearRow, ...]


@dataclass(frozen=True)
class LayerShare:
    """A layer's part in the influence on the seeds. influence: mean over the seeds. share: of the sum of all layers'
    absolute values."""

    name: str
    influence: float
    share: float


@dataclass(frozen=True)
class Sum:
    """Whether the tokens add up. tokens: sum of the tokens' influence, mean over the seeds. stored: what the sweep
    stored; None for a row outside the pool. offset: what relative_to=pool takes from the score beside the tokens."""

    tokens: float
    stored: float | None
    offset: float


@dataclass(frozen=True)
class RowExplanation:
    """All about one row.

    row: its number; None outside the pool. where: file and line. text: its own fields. problem: why it cannot be
    selected; then the other facts are missing. votes, voters: seeds or tasks that it helps, of all. helped, harmed:
    seeds, the greatest effect first. near: nearest rows, of which those with a cosine of NEAR or more are near-repeats.
    repeats: rows with the same tokens. layers, sums: of a pass of the model.
    """

    row: int | None
    where: str
    text: str
    seen: Seen | None = None
    problem: str | None = None
    score: float | None = None
    votes: int | None = None
    voters: int = 0
    loss: float | None = None
    pool_rows: int = 0
    helped: tuple[SeedEffect, ...] = ()
    harmed: tuple[SeedEffect, ...] = ()
    places: tuple[Place, ...] = ()
    cluster: ClusterView | None = None
    near: tuple[NearRow, ...] = ()
    repeats: tuple[int, ...] = ()
    layers: tuple[LayerShare, ...] = ()
    sums: Sum | None = None
    chosen_place: int | None = None
    chosen_of: int | None = None


@dataclass(frozen=True)
class SeedHelp:
    """A row that helps or harms a seed. place: in the last selection, from 1; None if it is not chosen."""

    row: int
    text: str
    influence: float
    place: int | None


@dataclass(frozen=True)
class SeedExplanation:
    """All about one seed.

    loss: of the seed. helped_share: share of the valid rows that help it. chosen_share: of the chosen rows; None
    without a selection. agreement: correlation of its influences with the mean of the other seeds'. best, worst: rows
    that help it most, that harm it most.
    """

    seed: int
    where: str
    text: str
    loss: float
    helped_share: float
    chosen_share: float | None
    agreement: float
    best: tuple[SeedHelp, ...]
    worst: tuple[SeedHelp, ...]


NEAR = 0.9
"""Cosine of the sketches from which rows count as near-repeats. A sketch of 512 columns tells it to about 0.01."""


@dataclass(frozen=True)
class Facts:
    """What an explanation says. run: the run directory. notes: what is missing, and why."""

    run: str
    method: str
    rows: tuple[RowExplanation, ...] = ()
    seeds: tuple[SeedExplanation, ...] = ()
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return asdict(self)
