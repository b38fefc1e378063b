"""A row while it is explained."""

from __future__ import annotations

from dataclasses import dataclass

from gdig.data.tokens import Example
from gdig.explanation.neighbourhood import Target
from gdig.passes.token_influence import TokenInfluence


@dataclass
class Subject:
    """A row that is explained. row: None outside the pool. example: None for a row that cannot be encoded.
    target: what the sweep says of it; None for an invalid row. passed: what a pass of the model says."""

    row: int | None
    where: str
    text: str
    example: Example | None = None
    problem: str | None = None
    target: Target | None = None
    loss: float | None = None
    passed: TokenInfluence | None = None
