"""Where other rules are ahead of gdig on the pretrained model: every pool and budget whose interval leaves out 0."""

from __future__ import annotations

from typing import Any

from benches.figures_parts.cells import interval, record, table
from benches.figures_parts.pretrained import LOSING, TENTH, losses
from benches.pretrained.result_tables import interval as difference

RULES = {
    "BM25, by turns": "BM25",
    "RDS+": "RDS+",
    "top, mean": "plain mean",
    "sketch cosine, by turns": "LESS's cosine",
    "loss": "lowest loss",
    "diverse": "diverse",
    "agreement, tau 0.55": "agreement",
    "random, balanced by source": "balanced random",
    "random": "random",
}


def ahead() -> str:
    """Ten steps, three trainings of each rule."""
    return _table([(name, pool, budget) for name, pool in record("pretrained-tasks")["pools"].items()
                   for budget in sorted(pool["outcomes"], key=float)])  # fmt: skip


def ahead_longer() -> str:
    """Thirty steps, one or two trainings of each rule."""
    return _table([(name, pool, TENTH) for name, pool in record("pretrained-longer")["pools"].items()])


def _table(cases: list[tuple[str, dict[str, Any], str]]) -> str:
    pools, budgets, found = [], [], []
    for name, pool, budget in cases:
        outcomes = pool["outcomes"][budget]
        own = losses([pool], "gdig", budget)
        lines = []
        for rule, label in RULES.items():
            if rule in outcomes:
                values = difference(losses([pool], rule, budget), own)
                if values[2] < 0:
                    lines.append((values[0], f"{label} {interval(values, 3, 3)}"))
        if lines:
            pools.append("repeats: " + name.split(",")[0] if name in LOSING and "repeats" in name else name)
            budgets.append(f"{100 * float(budget):g} %")
            found.append("; ".join(text for _, text in sorted(lines)))
    return table(["pool", "budget", "ahead, and by how much"], pools, budgets, found)
