"""The record of the real pairs as markdown."""

from __future__ import annotations

from typing import Any

from benches.shared.tables import markdown
from benches.zh_en.pool import CORRUPTIONS


def tables(record: dict[str, Any]) -> str:
    """The tables of the parts that the record has."""
    made = [_competence(record["competence"])]
    each = {"competence": _kinds, "inverses": _inverses, "seeds": _seeds, "selections": _selections}
    made += [make(name, table) for section, make in each.items() for name, table in record.get(section, {}).items()]
    return "\n\n".join(made)


def _competence(models: dict[str, Any]) -> str:
    names = list(dict.fromkeys(name for model in models.values() for name in model["auroc"]))
    head = ["AUROC (standard error of about 0.015)", *models]
    facts = [
        [fact, *(f"{model[fact]:.2f}" for model in models.values())]
        for fact in ("held loss", "loss of clean rows", "loss of spoiled rows")
    ]
    rows = [
        [name, *(f"{m['auroc'][name]['all']:.3f}" if name in m["auroc"] else "" for m in models.values())]
        for name in names
    ]
    return markdown(head, facts + rows)


def _kinds(name: str, model: dict[str, Any]) -> str:
    head = [name, "all", "ahead of the loss", *CORRUPTIONS, "clean in best 20%", "with length", "length of best 20%"]
    rows = [
        [
            score,
            f"{a['all']:.3f} ± {a['error']:.3f}",
            f"{a['ahead'][0]:+.3f} ± {a['ahead'][1]:.3f}",
            *(f"{a[kind]:.3f}" for kind in CORRUPTIONS),
            f"{model['clean among the best 20%'][score]:.1%}",
            f"{model['lengths'][score]['with length']:+.2f}",
            f"{model['lengths'][score]['length of the best fifth']:.2f}",
        ]
        for score, a in model["auroc"].items()
    ]
    return markdown(head, rows)


def _inverses(name: str, table: dict[str, Any]) -> str:
    metrics = list(table)
    rows = [
        [score, *(f"{table[metric][score]['all']:.3f}" for metric in metrics)] for score in next(iter(table.values()))
    ]
    return markdown([f"AUROC, {name}", *metrics], rows)


def _seeds(name: str, table: dict[str, Any]) -> str:
    sets = table["scores"]
    rows = [[kind, *(f"{m:.3f} ± {s:.3f}" for m, s in row.values())] for kind, row in sets.items()]
    separations = table["spoiled seeds told from clean ones"]
    blocks = [
        markdown([f"{name}; mean ± deviation over sets", *next(iter(sets.values()))], rows),
        markdown(
            ["AUROC, clean seeds against spoiled", *next(iter(separations.values()))],
            [[kind, *(f"{value:.3f}" for value in row.values())] for kind, row in separations.items()],
        ),
    ]
    return "\n\n".join(blocks)


def _selections(name: str, table: dict[str, Any]) -> str:
    rows = []
    for method, row in sorted(table.items(), key=lambda item: item[1]["held loss"]):
        drop = f"{row['drop']:.3f} ± {row['error']:.3f}"
        rows.append([method, str(row["rows"]), f"{row['clean']:.1%}", f"{row['held loss']:.3f}", drop])
    return markdown([name, "rows", "clean", "held loss", "drop of the held loss"], rows)
