"""A run over rows, seeds, tasks and file names that try to leave their places in a page."""

from __future__ import annotations

from pathlib import Path

import gdig
from tests.support.project_fixtures import N_SEEDS, Project, translation_rows, write_jsonl
from tests.support.swept_run import make_swept

HOSTILE = [
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "<!--<script>", "]]>", "{{ 7*7 }}{% raw %}", "&lt;b&gt;", "\u2028\u2029\x00\x1b[31m", "'\"`${1}",
    "javascript:alert(1)",
    "\ud800 half", "a" * 5000, "‮evil", "<a href='http://example.com/x'>link</a>", "<style>*{display:none}</style>",
]  # fmt: skip


def make_hostile(project: Project, folder: Path) -> Path:
    """Select from hostile rows, with a report. The sweep has generated numbers."""
    rows = [{**row, "trg_text": f"{HOSTILE[i % len(HOSTILE)]} {i}"} for i, row in enumerate(translation_rows())]
    rows = [{**row, "trg_text": row["trg_text"].replace("\ud800", "?")} for row in rows]  # such a row is refused
    rows += [dict(rows[0]), dict(rows[0])]
    seeds = [{**row, "task": HOSTILE[i % 3]} for i, row in enumerate(translation_rows(N_SEEDS, random_seed=1))]
    options = project.options(
        folder / "run",
        candidates=(
            str(write_jsonl(folder / "a'><script>alert(1)</script>.jsonl".replace("/", "∕"), rows[:30])),
            str(write_jsonl(folder / "b.jsonl", rows[30:])),
        ),
        seeds=(str(write_jsonl(folder / "seeds.jsonl", seeds)),),
        task_field="task",
        method="gdig",
        budget="20",
        report=True,
    )
    make_swept(options)
    selection = gdig.select(**options)
    assert selection.summary[-1] == f"report: {folder / 'run' / 'report.html'}"
    return folder / "run"
