"""What the user gets: the selected rows and what gdig says of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gdig.selection.choose import ScoredRows
from gdig.selection.survey import Survey
from gdig.selection.tasks import Tasks


@dataclass(frozen=True)
class Selection:
    """The selected rows.

    rows: int64 [n], rows of the pool, best first. columns: one dict a row, as the output shows it under "gdig". output:
    the file. summary: lines to print. warnings: what fit and sweep found that may make the selection less good than it
    seems.
    """

    rows: np.ndarray
    columns: list[dict[str, Any]]
    output: Path
    summary: list[str]
    warnings: list[str] = field(default_factory=list)


def output_columns(scored: ScoredRows, survey: Survey, tasks: Tasks) -> list[dict[str, Any]]:
    """Return what the output shows beside each row, under "gdig"."""
    values, voters = scored.columns, survey.voters
    return [
        {
            "row": int(row),
            "score": float(values["score"][i]) if voters else None,
            "agreement": float(values["votes"][i] / voters) if voters else None,
            "cluster": int(values["label"][i]) if "label" in values else None,
            "distance": float(values["distance"][i]) if "distance" in values else None,
            "rank": i + 1,
            "loss": float(values["loss"][i]),
            "tokens": int(values["tokens"][i]),
            **({"tasks": dict(zip(tasks.names, scored.by_task[i].tolist(), strict=True))} if tasks and voters else {}),
            **{name: reason[i].item() for name, reason in scored.reasons.items()},
        }
        for i, row in enumerate(scored.rows)
    ]


def summary_lines(scored: ScoredRows, survey: Survey, tasks: Tasks, n_clusters: int | None, output: Path) -> list[str]:
    """Return the lines that say what was selected. `n_clusters`: clusters with a row; None without clusters."""
    values, n = scored.columns, len(scored.rows)
    lines = [f"{n:,} of {survey.rows:,} rows ({int(values['tokens'].sum()):,} tokens): {output}", *scored.notes]
    if n and survey.voters:
        agreement, score = values["votes"].mean() / survey.voters, values["score"].mean(dtype=np.float64)
        lines.append(
            f"agreement of the selection {agreement:.3f} (pool {survey.mean_agreement:.3f}), "
            f"mean score {score:.3g} (pool {survey.mean_score:.3g})"
        )
    if n and tasks and survey.voters:
        means = zip(tasks.names, scored.by_task.mean(0), strict=True)
        lines.append("mean influence by task: " + ", ".join(f"{name} {mean:.3g}" for name, mean in means))
    if n_clusters is not None:
        lines.append(f"rows come from {len(np.unique(values['label']))} of {n_clusters} clusters")
    return lines
