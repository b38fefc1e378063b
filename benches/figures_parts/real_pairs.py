"""Tables of the real Chinese-English pairs: spoiled rows, seeds, and trainings on selections."""

from __future__ import annotations

from typing import Any

from benches.figures_parts.cells import bold, column, percent, record, table

MODELS = {
    "other clean rows, 1 epoch": "small, clean, 1 epoch",
    "4 epochs": "small, clean, 4 epochs",
    "then the pool, 1 epoch": "small, clean then pool, 1 epoch",
    "the pool alone, 1 epoch": "small, pool, 1 epoch",
    "the pool alone, 4 epochs": "small, pool, 4 epochs",
}
SCORES = {
    "mean influence": "mean influence",
    "agreement": "agreement",
    "`score=steady`": "mean / spread over seeds",
    "cosine in the norm of H^-1": "cosine to each seed, mean",
    "low loss": "low loss",
}
SCORER = "small, clean, 4 epochs"
BUDGETS = ("5%", "10%", "20%", "40%")


def told_apart() -> str:
    """AUROC of clean against spoiled rows, by what the model was trained on."""
    competence = record("evidence-zh-en")["competence"]
    columns = [
        column([competence[model]["auroc"][score]["all"] for score in SCORES.values()], "{:.3f}".format, max)
        for model in MODELS.values()
    ]
    bm25 = competence[SCORER]["auroc"]["BM25"]["all"]
    columns = [[*cells, f"{bm25:.3f}" if i == 0 else ""] for i, cells in enumerate(columns)]
    return table(["", *MODELS], [*SCORES, "BM25"], *columns)


def told_apart_larger() -> str:
    """The same of a larger model."""
    competence = record("evidence-zh-en")["competence"]
    models = ("middle, clean, 3 epochs", "middle, clean then pool, 1 epoch")
    first, then = (competence[model]["held loss"] for model in models)
    heads = [f"3 epochs of other clean rows ({first:.2f} nats a token)", f"then the pool too ({then:.2f})"]
    columns = [[f"{competence[model]['auroc'][score]['all']:.3f}" for score in SCORES.values()] for model in models]
    return table(["a Llama of 4 layers, 256 wide", *heads], list(SCORES), *columns)


def _trained(budget: str, scorer: str = SCORER) -> dict[str, Any]:
    selection: dict[str, Any] = record("evidence-zh-en")["selections"][
        f"scored by: {scorer}; trained from: {SCORER}; {budget}"
    ]
    return selection


def _drop(result: dict[str, float]) -> str:
    return f"{1000 * result['drop']:.1f} +- {1000 * result['error']:.1f}"


def _drops(names: dict[str, str]) -> list[list[str]]:
    columns = []
    for budget in BUDGETS:
        trained = [_trained(budget)[name] for name in names.values()]
        best = max(result["drop"] for result in trained)
        columns.append([bold(_drop(result)) if result["drop"] == best else _drop(result) for result in trained])
    return columns


def drops() -> str:
    """The drop of the held-out loss after trainings on selections, of the short page."""
    names = {
        "diverse": "gdig --method diverse",
        "gdig": "gdig",
        "BM25, by the mean over the seeds": "BM25",
        "random": "random",
        "gdig, `--tau 1`": "gdig, tau 1",
        "low loss": "low loss",
    }
    return table(["", *(f"{budget[:-1]} %" for budget in BUDGETS)], list(names), *_drops(names))


def drops_all() -> str:
    """The same of every selection, with the share of clean rows at 20 %."""
    names = {
        "the clean rows alone, at random": "random, clean rows alone",
        "diverse": "gdig --method diverse",
        "gdig": "gdig",
        "tagcos": "gdig --method tagcos",
        "cosine in the norm of H^-1": "cosine to each seed, mean",
        "random": "random",
        "BM25, by the mean over the seeds": "BM25",
        "gdig, tau = 1": "gdig, tau 1",
        "agreement": "agreement",
        "steady": "mean / spread over seeds",
        "low loss": "low loss",
        "mean influence": "mean influence",
    }
    fifth = _trained("20%")
    labels = [f"{label} ({percent(fifth[name]['clean'])})" for label, name in names.items()]
    labels[0] = next(iter(names))
    heads = [f"{budget[:-1]} %" for budget in BUDGETS]
    return table(["", f"{heads[0]} of the pool", *heads[1:]], labels, *_drops(names))


def drops_in_the_papers_protocol() -> str:
    """The same where the model that scores was tuned on the raw pool."""
    trained = _trained("20%", "small, clean then pool, 1 epoch")
    names = {
        "diverse": "gdig --method diverse",
        "gdig": "gdig",
        "random": "random",
        "gdig, tau = 1": "gdig, tau 1",
        "tagcos": "gdig --method tagcos",
        "agreement": "agreement",
        "steady": "mean / spread over seeds",
        "mean influence": "mean influence",
    }
    return table(
        ["chosen by, 20 %", "drop of the loss, in thousandths"],
        list(names),
        [_drop(trained[name]) for name in names.values()],
    )


def _of_seeds(cases: dict[str, str], with_reliability: bool, first: str) -> str:
    scores = record("evidence-zh-en")["seeds"][SCORER]["scores"]
    names = {"mean influence": "mean influence", "agreement": "agreement", "steady": "mean / spread over seeds"}
    columns = [[f"{scores[case][name][0]:.2f}" for case in cases.values()] for name in names.values()]
    heads = [first, *names]
    if with_reliability:
        columns.append([f"{scores[case]['reliability'][0]:.2f}" for case in cases.values()])
        heads.append("reliability of the votes")
    return table(heads, list(cases), *columns)


def seeds() -> str:
    """AUROC and reliability by the number of seeds."""
    return _of_seeds({str(n): f"{n} seeds" for n in (4, 8, 16, 32, 64, 128)}, True, "seeds")


def spoiled_seeds() -> str:
    """AUROC by the share of spoiled seeds."""
    cases = {f"{share} %": f"32 seeds, {share}% spoiled" for share in (0, 25, 50, 75)}
    return _of_seeds(cases, False, "spoiled")


def defaults_told_apart() -> str:
    """AUROC of `make bench`, for each kind of spoiled row."""
    auroc = record("real_zh_en")["auroc"]
    kinds = list(next(iter(auroc.values())))
    columns = [[f"{auroc[score][kind]:.3f}" for score in auroc] for kind in kinds]
    return table(["AUROC, clean against", *kinds], list(auroc), *columns)


def defaults_chosen() -> str:
    """What each method of `make bench` chooses."""
    facts = record("real_zh_en")
    pool = facts["pool"]
    rows = {**facts["chosen"], "(the pool)": pool}
    shares = [percent(counts["clean"] / sum(counts.values()), 1) for counts in rows.values()]
    kinds = [kind for kind in pool if kind != "clean"]
    return table(
        ["method", "clean", *kinds], list(rows), shares, *([str(c[kind]) for c in rows.values()] for kind in kinds)
    )
