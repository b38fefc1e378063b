"""A report as one file of HTML that opens from a disk and asks for nothing."""

from __future__ import annotations

from gdig.pages.render import render
from gdig.reporting.facts import ReportFacts

_IN_SCRIPT = (
    "run", "histograms", "votes", "map", "clusters", "sources", "seeds", "best", "worst", "edge", "repeats", "overlap",
    "chosen", "n_chosen", "rows",
)  # fmt: skip
"""Facts that the scripts read; the template shows the others."""


def report_page(facts: ReportFacts) -> str:
    """Return the page of a report."""
    values = facts.as_json()
    return render(
        "report.html",
        facts=facts,
        data={name: values[name] for name in _IN_SCRIPT},
        stages=[(name, f"{seconds:,.1f}") for name, seconds in facts.stages],
        counts=[(name.replace("_", " "), f"{count:,}") for name, count in facts.counts],
        inputs=[(kind, f"{name} ({size:,} bytes)") for kind, name, size in facts.inputs],
    )
