"""Tables of the generated language: what scores predict, and how models trained on selections perform."""

from __future__ import annotations

from typing import Any

from benches.figures_parts.cells import bold, column, interval, percent, record, table

BUDGETS = ("5%", "10%", "20%", "40%")
SHORT = {
    "gdig": "gdig",
    "tagcos": "tagcos",
    "random": "random",
    "diverse (clusters, no seeds)": "diverse",
    "gdig, `--tau 1` (the paper's threshold)": "gdig, tau 1",
    "g2is": "g2is",
    "bids": "bids",
    "BM25, by the mean over the seeds": "top by BM25",
    "less": "less",
    "low loss": "loss",
    "self-filter (score net)": "self-filter, score net",
}
LONG = {
    "gdig (defaults)": "gdig",
    "gdig, `--draw score`": "gdig, best of each cluster",
    "gdig, `--agreement tasks`": "gdig, tasks vote",
    "gdig, `--tau 1` (the paper's)": "gdig, tau 1",
    "tagcos": "tagcos",
    "LESS's cosine, all linear layers, moments at rest": "top by LESS",
    "random": "random",
    "diverse": "diverse",
    "top (steady)": "top",
    "top by mean influence": "top by mean",
    "g2is": "g2is",
    "g2is, Adam's directions": "g2is, Adam",
    "bids": "bids",
    "less (three checkpoints of the training)": "less",
    "low loss": "loss",
    "BM25, by the mean over the seeds": "top by BM25",
    "self-filter, score net": "self-filter, score net",
    "self-filter, difficulty = loss": "self-filter",
}


def _methods() -> dict[str, Any]:
    methods: dict[str, Any] = record("evidence-datamodels")["found"]["methods"]
    return methods


def predicts() -> str:
    """LDS and AUROC of the scores that the short page shows."""
    names = {
        "EK-FAC, damping 0.1 (the default)": "ekfac 0.1",
        "K-FAC": "kfac 0.1",
        "identity (gradient dot product)": "identity",
        "LESS's cosine": "LESS cosine",
        "BM25": "BM25",
        "low loss": "low loss",
    }
    rows = [_methods()[name] for name in names.values()]
    lds = [interval(m["lds"]) if i in (0, 2) else f"{m['lds'][0]:.3f}" for i, m in enumerate(rows)]
    aurocs = column([m["auroc"] for m in rows], "{:.3f}".format, max)
    return table(["", "LDS", "tells clean from spoiled rows (AUROC)"], list(names), lds, aurocs)


def predicts_all() -> str:
    """LDS and AUROC of every score that the long page shows."""
    damped = [f"ekfac {damping}" for damping in ("0.001", "0.01", "0.1", "1", "10")]
    rows = [
        ("EK-FAC, damping 0.001 / 0.01 / **0.1** / 1 / 10", damped),
        (
            "EK-FAC 0.1, rank 8 / rank 32 / exact seeds",
            [f"ekfac 0.1, {kind}" for kind in ("rank 8", "rank 32", "exact seeds")],
        ),
        ("EK-FAC 0.1, divided by the gradient's length", ["ekfac 0.1, cosine"]),
        ("K-FAC 0.1", ["kfac 0.1"]),
        ("identity (gradient dot product)", ["identity"]),
        ("LESS's cosine (Adam) / gradient cosine", ["LESS cosine", "gradient cosine"]),
        ("BM25", ["BM25"]),
        ("low loss", ["low loss"]),
        ("EK-FAC 0.1, of the model before the pool", ["ekfac 0.1, before the pool"]),
    ]

    def lds(name: str) -> str:
        values = _methods()[name]["lds"]
        if name == "ekfac 0.1":
            return bold(interval(values))
        return interval(values) if name in ("identity", "ekfac 0.1, cosine") else f"{values[0]:.3f}"

    return table(
        ["score", "LDS", "clean against spoiled (AUROC of the mean)"],
        [label for label, _ in rows],
        [" / ".join(map(lds, names)) for _, names in rows],
        [" / ".join(f"{_methods()[name]['auroc']:.3f}" for name in names) for _, names in rows],
    )


def removals() -> str:
    """Losses on the seeds of models trained without the rows that a score calls best or worst."""
    removed = record("evidence-counterfactuals")["found"]["removed"]
    names = {
        "EK-FAC": "ekfac 0.1",
        "identity": "identity",
        "LESS": "LESS cosine",
        "steady": "ekfac 0.1, steady mean",
        "agreement": "ekfac 0.1, agreement",
        "BM25": "BM25",
        "low loss": "low loss",
    }
    cells = [
        [interval(removed[share]["methods"][name]["seeds"], sign="+") for name in names.values()]
        for share in ("best 10%", "worst 10%")
    ]
    return table(["held-out loss without the rows that a score calls", "best 10 %", "worst 10 %"], list(names), *cells)


def references() -> str:
    """What the whole pool and its sound rows train to."""
    trained = record("evidence-selection")["found"]
    rows = {"the whole pool": trained["full pool"], "its sound rows alone": trained["all sound rows"]}
    return table(
        ["trained on", "held-out loss", "exact match"],
        list(rows),
        [interval(row["loss"], 2) for row in rows.values()],
        [f"{row['exact'][0]:.2f}" for row in rows.values()],
    )


def _selections(names: dict[str, str], first: str, last: dict[str, list[str]], mark: bool) -> str:
    budgets = record("evidence-selection")["found"]["budgets"]
    columns = []
    for budget in BUDGETS:
        results = [budgets[budget][name] for name in names.values()]
        cells = [f"{result['loss'][0]:.2f} / {result['exact'][0]:.2f}" for result in results]
        best = min(range(len(results)), key=lambda i: results[i]["loss"][0])
        columns.append([bold(cell) if mark and i == best else cell for i, cell in enumerate(cells)])
    heads = [f"{budget[:-1]} %" for budget in BUDGETS]
    heads[0] += " of the pool"
    return table([first, *heads, *last], list(names), *columns, *last.values())


def selections() -> str:
    """Held-out loss and exact match of the short page, and the spoiled rows at 10 %."""
    tenth = record("evidence-selection")["found"]["budgets"]["10%"]
    spoiled = [percent(tenth[name]["spoiled"]) for name in SHORT.values()]
    return _selections(SHORT, "loss / exact match", {"spoiled at 10 %": spoiled}, mark=True)


def selections_all() -> str:
    """The same of every method, with the repeated rows."""
    tenth = record("evidence-selection")["found"]["budgets"]["10%"]
    last = {
        f"{kind} (of 10 %)": [percent(tenth[name][kind], digits) for name in LONG.values()]
        for kind, digits in (("spoiled", 1), ("repeated", 0))
    }
    return _selections(LONG, "held-out loss / exact match", last, mark=False)


def tenth() -> str:
    """The methods that come nearest at 10 %, with intervals."""
    results = record("evidence-selection")["found"]["budgets"]["10%"]
    names = {"gdig": "gdig", "random rows": "random", "tagcos": "tagcos", "LESS's cosine": "top by LESS"}
    losses = [interval(results[name]["loss"], 2) for name in names.values()]
    return table(["at 10 %", "loss"], list(names), losses)
