"""What `gdig.explain` returns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gdig.explanation.facts import Facts, RowExplanation, SeedExplanation
from gdig.explanation.page import explanation_fragment, explanation_page
from gdig.explanation.terminal import explanation_lines
from gdig.pages.render import write_page

if TYPE_CHECKING:
    from rich.text import Text


@dataclass(frozen=True)
class Explanation:
    """An explanation of rows and seeds. In a notebook it shows itself; `print` shows it as text.

    facts: what it says, as plain values.
    """

    facts: Facts

    @property
    def rows(self) -> tuple[RowExplanation, ...]:
        """The rows, those of the pool first."""
        return self.facts.rows

    @property
    def seeds(self) -> tuple[SeedExplanation, ...]:
        """The seeds."""
        return self.facts.seeds

    def as_json(self) -> dict[str, Any]:
        """Return all facts as JSON values."""
        return self.facts.as_json()

    def lines(self) -> list[Text]:
        """Return lines for a terminal, which rich prints with colours."""
        return explanation_lines(self.facts)

    def write_html(self, path: str | Path) -> None:
        """Write a page that opens from a disk and asks for nothing."""
        write_page(Path(path), explanation_page(self.facts))

    def __str__(self) -> str:
        return "\n".join(map(str, self.lines()))

    def _repr_html_(self) -> str:
        return explanation_fragment(self.facts)
