"""An explanation as HTML: a page, or a piece of one for a notebook."""

from __future__ import annotations

from gdig.explanation.facts import NEAR, Facts, Piece, RowExplanation
from gdig.pages.render import render

_DARKEST = 0.75
"""Opacity of the colour of the strongest token."""


def explanation_page(facts: Facts) -> str:
    """Return a page that opens from a disk and asks for nothing."""
    return render("explanation.html", **_values(facts))


def explanation_fragment(facts: Facts) -> str:
    """Return the explanation as a piece of HTML, for a notebook."""
    return render("explanation_fragment.html", **_values(facts))


def _values(facts: Facts) -> dict[str, object]:
    return {"facts": facts, "near_repeat": NEAR, "shade": _shade}


def _shade(piece: Piece, row: RowExplanation) -> str:
    """The opacity of a token's colour: its influence beside that of the strongest token."""
    assert row.seen is not None
    largest = max(abs(other.influence) for other in row.seen.pieces)
    return f"{_DARKEST * abs(piece.influence) / largest:.2f}" if largest else "0"
