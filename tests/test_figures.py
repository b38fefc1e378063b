"""Every figure of the documentation is that of its record."""

from __future__ import annotations

import re

import pytest

from benches import figures
from benches.shared.machine import ROOT

FREE = {
    "What others published": "figures of other papers, which are named",
    "4. Where it fails, and what to do": "ranges over several tables of the page",
    "5. Where it fails, and what to do": "ranges over several tables of the page",
}
"""Headings under which a table with figures may stand outside marks, and why."""


def test_tables_and_sentences_are_those_of_the_records() -> None:
    assert figures.differences() == []


def test_each_table_stands_in_a_page() -> None:
    marked = [name for page in figures.pages() for _, name, _, _ in figures._BLOCK.findall(page.read_text("utf-8"))]
    assert set(marked) == set(figures.TABLES)
    opened = [page.read_text("utf-8").count("<!-- figures: ") for page in figures.pages()]
    assert sum(opened) == len(marked), "a mark without an end"


def test_another_figure_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    page = ROOT / "docs" / "seeds.md"
    text = page.read_text(encoding="utf-8")
    changed = re.sub(r"\| 64 \| 0\.\d", "| 64 | 0.9", text, count=1)
    assert changed != text and figures.written(changed) == text
    monkeypatch.setattr(figures, "pages", list)  # the tables are those of the test above
    monkeypatch.setattr(figures, "SENTENCES", [("README.md", lambda: "gdig is ahead by 99.")])
    assert figures.differences() == ["README.md: expected, from the records: gdig is ahead by 99."]


@pytest.mark.parametrize(
    "name",
    ["README", "evidence", "evidence-details", "seeds", "choosing-a-method", "plan", "score", "redundancy", "report"],
)
def test_no_table_of_measured_figures_stands_outside_marks(name: str) -> None:
    page = ROOT / "README.md" if name == "README" else ROOT / "docs" / f"{name}.md"
    heading, outside = "", []
    for line in figures._BLOCK.sub("", page.read_text(encoding="utf-8")).splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("|") and re.search(r"\| \*{0,2}[+-]?\d+\.\d", line) and heading not in FREE:
            outside.append(f"{heading}: {line}")
    assert not outside, "\n".join(outside)
