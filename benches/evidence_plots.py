"""Pictures of the records, for docs/: what the influence predicts, and how models trained on a selection perform.

    python -m benches.evidence_plots           # benches/record/evidence-*.json into docs/*.svg
    python -m benches.evidence_plots --quick   # the records of quick runs, into build/

The bench needs matplotlib: pip install 'gdig[evidence]'. It leaves out a record that does not exist, and prints that.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benches.shared.machine import ROOT

SHOWN = (
    "ekfac 0.001, cosine", "ekfac 0.1, cosine", "ekfac 0.0001", "ekfac 0.001", "ekfac 0.01", "ekfac 0.1", "ekfac 1",
    "ekfac 10", "kfac 0.1", "ekfac 0.1, rank 8", "ekfac 0.1, empirical Fisher", "ekfac 0.1, all linears",
    "ekfac 0.1, before the pool", "identity", "LESS cosine", "gradient cosine", "BM25", "low loss", "random",
)  # fmt: skip
COLOURS = {
    "gdig": "#1f5fa8",
    "gdig, tau 1": "#12b0a0",
    "bids": "#937860",
    "top": "#c44e52",
    "top by mean": "#8172b3",
    "diverse": "#55a868",
    "loss": "#dd8452",
    "random": "#777777",
    "top by BM25": "#b5a642",
    "top by LESS": "#64b5cd",
}
INK, OURS, OTHERS = "#222222", "#1f5fa8", "#999999"


def main() -> None:
    """Draw a picture for each record that exists."""
    arguments = _arguments()
    if importlib.util.find_spec("matplotlib") is None:
        print("evidence_plots: skipped, matplotlib is not installed (pip install 'gdig[evidence]')")
        return
    import matplotlib

    matplotlib.use("svg")
    # Text stays text and ids are drawn from a fixed salt, so that the same record gives the same small file.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "gdig", "font.size": 9, "axes.edgecolor": INK})
    quick = ROOT / "build" / "evidence_generated" / "quick"
    records = arguments.record or (quick if arguments.quick else ROOT / "benches" / "record")
    out = arguments.out or (quick if arguments.quick else ROOT / "docs")
    out.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        record = records / f"evidence-{name}.json"
        if not record.is_file():
            print(f"evidence_plots: no record {record}")
            continue
        figure = draw(json.loads(record.read_text(encoding="utf-8"))["found"])
        file = out / f"evidence-{name}.svg"
        figure.savefig(file, bbox_inches="tight", metadata={"Date": None})
        print(f"drawn: {file}, {file.stat().st_size / 1000:.0f} kB")


def datamodels(results: dict[str, Any]) -> Any:
    """Linear datamodelling scores with their intervals, a line for each method."""
    import matplotlib.pyplot as plt

    names = [name for name in SHOWN if name in results["methods"]][::-1]
    figure, axes = plt.subplots(figsize=(6.5, 0.22 * len(names) + 0.8))
    for y, name in enumerate(names):
        value, low, high = results["methods"][name]["lds"]
        colour = OURS if "kfac" in name or name == "identity" else OTHERS
        axes.plot([low, high], [y, y], color=colour, linewidth=1.5)
        axes.plot(value, y, "o", color=colour, markersize=4)
    axes.axvline(0, color=INK, linewidth=0.6)
    if results["noise"]:
        ceiling = results["noise"]["lds"]["ceiling"]
        axes.axvline(ceiling, color=INK, linewidth=0.8, linestyle=":")
        axes.annotate("noise ceiling", (ceiling, 0), rotation=90, ha="right", va="bottom", fontsize=8)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel(f"linear datamodelling score, {results['subsets']} halves of the pool, 95 % intervals")
    _plain(axes)
    return figure


def selection(results: dict[str, Any]) -> Any:
    """Held-out loss, exact match and spoiled rows against the budget, a line for each method."""
    import matplotlib.pyplot as plt

    budgets = list(results["budgets"])
    x = [float(budget.rstrip("%")) for budget in budgets]
    figure, panels = plt.subplots(1, 3, figsize=(9.5, 3.2))
    for axes, key, title in zip(
        panels, ("loss", "exact", "spoiled"), ("held-out loss", "exact match", "spoiled rows chosen"), strict=True
    ):
        for name, colour in COLOURS.items():
            rows = [results["budgets"][budget].get(name) for budget in budgets]
            if not all(rows):
                continue
            values = [row[key] for row in rows]
            if key != "spoiled":
                low, high = ([value[i] for value in values] for i in (1, 2))
                axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
                values = [value[0] for value in values]
            axes.plot(x, values, "o-", color=colour, markersize=3, linewidth=1.3, label=name)
        if key != "spoiled":
            axes.axhline(results["full pool"][key][0], color=INK, linewidth=0.8, linestyle=":", label="full pool")
        axes.set_xscale("log")
        axes.set_xticks(x, budgets)
        axes.minorticks_off()
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("budget")
        _plain(axes)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=5, frameon=False, bbox_to_anchor=(0.5, -0.17))
    return figure


def counterfactuals(results: dict[str, Any]) -> Any:
    """Change of the held-out loss without some rows, a panel for each share."""
    import matplotlib.pyplot as plt

    shares = list(results["removed"])
    names = list(results["removed"][shares[0]]["methods"])[::-1]
    figure, panels = plt.subplots(1, len(shares), figsize=(9.5, 0.24 * len(names) + 0.8), sharey=True)
    for axes, share in zip(panels, shares, strict=True):
        for y, name in enumerate(names):
            value, low, high = results["removed"][share]["methods"][name]["test"]
            colour = OURS if "kfac" in name or name == "identity" else OTHERS
            axes.plot([low, high], [y, y], color=colour, linewidth=1.5)
            axes.plot(value, y, "o", color=colour, markersize=4)
        axes.axvline(0, color=INK, linewidth=0.6)
        axes.set_title(f"without the {share}", fontsize=9)
        axes.set_yticks(range(len(names)), names)
        _plain(axes)
    figure.supxlabel("change of the held-out loss against removing as many rows at random", fontsize=9, y=-0.06)
    return figure


PICTURES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "datamodels": datamodels,
    "selection": selection,
    "counterfactuals": counterfactuals,
}
"""The pictures, by the name of the record."""


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=2, color=INK)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="draw the records of quick runs, into build/")
    parser.add_argument("--record", type=Path, help="folder of the records (default: benches/record/)")
    parser.add_argument("--out", type=Path, help="folder of the pictures (default: docs/)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
