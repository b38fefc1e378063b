"""What the layers of some blocks are worth and what they cost, beside all layers."""

from __future__ import annotations

from benches.figures_parts.cells import interval, record, table

_LABELS = {
    "all": "all",
    "mlp": "`mlp`",
    "attention": "`attention`",
    "mlp:upper:0.5": "`mlp:upper:0.5`",
    "mlp:upper:0.25": "`mlp:upper:0.25`, the default",
    "mlp:upper:0.125": "`mlp:upper:0.125`",
    "upper:0.25": "`upper:0.25`",
}


def worth() -> str:
    """Each choice of layers: agreement with all layers, rows told apart, LDS, and the cost."""
    parts = record("layer_share")
    rows = []
    for name, label in _LABELS.items():
        own, language = parts["pretrained"]["choices"][name], parts["generated"]["choices"][name]
        cost = parts.get("cost", {"choices": {}})["choices"].get(name)
        rows.append([
            label,
            f"{own['spearman'][0]:.2f}", *(f"{own[key]:.2f}" for key in ("auroc_task", "auroc_clean")),
            interval(language["lds"], 2),
            *([f"{cost['fit of plain']:.2f}", f"{cost['sweep of plain']:.2f}"] if cost else ["", ""]),
        ])  # fmt: skip
    header = ["layers", "Spearman", "other tasks", "spoiled", "LDS", "fit", "sweep"]
    return table(header, *map(list, zip(*rows, strict=True)))
