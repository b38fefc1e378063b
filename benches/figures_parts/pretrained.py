"""Tables of the pretrained model: trainings on what each rule chose, and where gdig loses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benches.figures_parts.cells import bold, interval, percent, record, table
from benches.pretrained.result_tables import BEFORE, ORACLE
from benches.pretrained.result_tables import interval as difference

TENTH = "0.1"


def pools(kind: str) -> list[dict[str, Any]]:
    """The pools of a kind."""
    return [pool for pool in record("pretrained-tasks")["pools"].values() if pool["kind"] == kind]


def losses(of: Sequence[Mapping[str, Any]], rule: str, budget: str = TENTH) -> np.ndarray:
    """Losses on the held-out rows of all pools side by side: [trainings, rows], as many trainings as every pool has."""
    own = [np.array(pool["outcomes"][budget][rule]["loss"]) for pool in of]
    return np.concatenate([losses[: min(map(len, own))] for losses in own], 1)


_LABELS = {
    BEFORE: "before training",
    "random": "random",
    "random, balanced by source": "random, balanced by source",
    "loss": "lowest loss",
    "agreement, tau 0.55": "agreement, tau 0.55",
    "diverse": "diverse: clusters, no seeds",
    "top, mean": "top, by the plain mean",
    "sketch cosine, by turns": "LESS's cosine without Adam's state, by turns",
    "RDS+": "RDS+: hidden states",
    "BM25, by turns": "BM25, by turns",
    "gdig": "**gdig**",
    ORACLE: "clean rows of the target, known",
}
_LEFT_TO_THE_EVIDENCE = ("random, balanced by source", "agreement, tau 0.55", "top, mean")
"""Rules that README's table leaves out."""


def _rules(names: Sequence[str]) -> str:
    """The mean over the pools of one target: loss, difference from random rows, share of clean rows of the target."""
    of = pools("P1")
    random = losses(of, "random")
    chosen = [rule for rule in names if rule not in (BEFORE, ORACLE)]
    best = losses(of, min(chosen, key=lambda rule: losses(of, rule).mean()))
    rows = []
    for rule in names:
        own = losses(of, rule)
        level = rule in chosen and difference(own, best)[1] <= 0  # not told apart from the best
        mean = f"{own.mean():.3f}"
        beside = "" if rule in (BEFORE, "random") else interval(difference(own, random), 2, sign="+")
        outcomes = [pool["outcomes"][TENTH][rule] for pool in of]
        good = percent(float(np.mean([outcome["good"] for outcome in outcomes]))) if "good" in outcomes[0] else ""
        label = _LABELS[rule] + (" *" if len(own) == 1 else "")
        rows.append([label, bold(mean) if level else mean, beside, good])
    return table(["rule", "loss", "beside random", "clean rows of the target"], *map(list, zip(*rows, strict=True)))


def rules() -> str:
    """Every rule of the evidence page."""
    return _rules(list(_LABELS))


def readme() -> str:
    """The rules that README shows."""
    return _rules([rule for rule in _LABELS if rule not in _LEFT_TO_THE_EVIDENCE])


def budgets() -> str:
    """Every budget: the mean loss over the pools of one target."""
    of = pools("P1")
    shares = sorted(of[0]["outcomes"], key=float)
    rows = []
    for rule, label in _LABELS.items():
        if rule == BEFORE or not all(rule in pool["outcomes"][share] for pool in of for share in shares):
            continue
        own = [losses(of, rule, share) for share in shares]
        once = any(len(x) == 1 for x in own)
        rows.append([label.strip("*") + (" *" if once else ""), *(f"{x.mean():.3f}" for x in own)])
    chosen = [row for row in rows if not row[0].startswith(_LABELS[ORACLE])]
    for i in range(1, len(shares) + 1):
        best = min(chosen, key=lambda row: float(row[i]))
        best[i] = bold(best[i])
    header = ["rule", *(f"{100 * float(share):g} % of the pool" for share in shares)]
    return table(header, *map(list, zip(*rows, strict=True)))


def whole_model() -> str:
    """What the command chooses by the whole model, at its defaults and with one thing changed: means over the pools."""
    by_pool, of = record("pretrained-whole-model")["pools"], record("pretrained-tasks")["pools"]
    changed = [name for name, own in by_pool.items() if len(own) > 1]
    lines = [
        ("gradients of the 2 blocks that train", "gdig"),
        ("the command at its defaults (8 blocks)", "the default"),
        ("the MLPs of all 30 blocks", "mlp"),
        ("the MLPs of the upper third", "the upper third"),
        ("attention too", "attention too"),
        ("the loss by its sum over tokens", "the loss by its sum"),
        ("rows through the chat template", "chat template"),
        ("a model tuned on the pool for an epoch", "a model tuned on the pool"),
        ("BM25", "BM25, by turns"),
        ("random", "random"),
    ]
    columns = [list(by_pool)] + [changed] * bool(changed)
    rows = []
    for label, name in lines:
        cells = []
        for names in columns:
            found = [by_pool[pool].get(name) or of[pool]["outcomes"][TENTH].get(name) for pool in names]
            if any(result is None for result in found):
                cells.append("")
                continue
            loss = np.concatenate([np.array(result["loss"]) for result in found if result], 1)
            good = percent(float(np.mean([result["good"] for result in found if result])))
            cells.append(f"{loss.mean():.3f} / {good}")
        if any(cells):
            rows.append([label, *cells])
    header = ["loss / clean rows of the target", *(f"{len(names)} pools" for names in columns)]
    return table(header, *map(list, zip(*rows, strict=True)))


def counterfactuals() -> str:
    """The rise of the held-out loss without the rows that a score calls best: the mean over the pools of one target."""
    of = [pool["losses"] for pool in record("pretrained-counterfactuals")["without"].values()]

    def losses_without(name: str) -> np.ndarray:
        return np.concatenate([np.array(pool[name]) for pool in of], 1)

    labels = {"EK-FAC": "EK-FAC, damping 0.1 (the default)", "identity": "identity (gradient dot product)"}
    whole = losses_without("nothing")
    names = [name for name in of[0] if name != "nothing"]
    rises = [interval(difference(losses_without(name), whole), 3, 2, sign="+") for name in names]
    return table(["left out", "rise of the loss"], [labels.get(name, name) for name in names], rises)


def answers() -> str:
    """Exact answers before and after the trainings: the mean over the pools of one target."""
    of = record("pretrained-exact-match")["answers"]
    labels = {**_LABELS, "the whole pool": "as many steps on rows of the whole pool"}
    rows = []
    for rule in next(iter(of.values())):
        loss, exact = (
            np.concatenate([np.array(pool[rule][key], float) for pool in of.values()], 1) for key in ("loss", "exact")
        )
        none = np.zeros((1, exact.shape[1]))
        rows.append(
            [labels[rule].strip("*"), f"{loss.mean():.3f}", interval(100 * np.array(difference(exact, none)), 1, 0)]
        )
    return table(["rule", "loss", "exact answers, %"], *map(list, zip(*rows, strict=True)))


def pairs() -> str:
    """Real pairs of one task with spoiled rows, by the pretrained model: loss and share of sound rows at 10 %."""
    of = record("pretrained-pairs")["pools"]
    rows = []
    for rule, label in _LABELS.items():
        cells = [label.strip("*") if rule != ORACLE else "sound rows, known"]
        for pool in of.values():
            result = pool["outcomes"][TENTH].get(rule)
            if result is None:
                break
            loss = f"{np.mean(result['loss']):.3f}"
            cells.append(f"{loss} / {percent(result['good'])}" if "good" in result else loss)
        if len(cells) == 1 + len(of):
            rows.append(cells)
    return table(["loss / sound rows", *of], *map(list, zip(*rows, strict=True)))


def languages() -> str:
    """The same rules on two generated languages: held-out losses at 10 %."""
    names = {
        "random": "random",
        "BM25, by turns": "BM25, by turns",
        "RDS+": "RDS+",
        "top, relative cosine": "top, relative cosine",
        "agreement, tau 0.55": "gdig, the default",
        "cosine, by turns": "cosine, by turns",
        "blended cosine, by turns": "blended cosine, by turns",
        "sound rows, known": ORACLE,
    }
    columns = []
    for language in (0, 1):
        outcomes = record(f"pretrained-generated-{language}")["pools"][f"generated language {language}"]["outcomes"][
            TENTH
        ]
        means = [float(np.mean(outcomes[rule]["loss"])) for rule in names.values()]
        best = min(means[:-1])
        columns.append([bold(f"{loss:.2f}") if loss == best else f"{loss:.2f}" for loss in means])
    return table(["loss", "language 0", "language 1"], list(names), *columns)


LOSING = {
    "five targets": "five targets of unequal difficulty",
    "three targets, unequal seeds": "three targets, unequal seeds",
    "translation, repeats": "translation, an eighth six times, none spoiled",
    "common_gen, repeats": "common_gen, the same",
}
"""Pools where another rule is ahead after short trainings, and what the tables call them."""


def losing() -> str:
    """Pools on which another method is ahead of gdig."""
    pools = record("pretrained-tasks")["pools"]
    shown = ("gdig", "BM25, by turns", "RDS+", "top, mean", "diverse", "random")
    rows = []
    for name, label in LOSING.items():
        own = [float(np.mean(pools[name]["outcomes"][TENTH][rule]["loss"])) for rule in shown]
        rows.append([label, *(bold(f"{x:.3f}") if x == min(own) else f"{x:.3f}" for x in own)])
    header = ["pool", "gdig", "BM25", "RDS+", "plain mean", "diverse", "random"]
    return table(header, *map(list, zip(*rows, strict=True)))


def longer() -> str:
    """The same choices after trainings of three times the steps, by kind of pool."""
    own = record("pretrained-longer")["pools"]
    groups: dict[str, list[str]] = {"one target, the mean of six pools": [n for n in own if own[n]["kind"] == "P1"]}
    groups |= {label: [name] for name, label in LOSING.items()}
    groups |= {f"pairs: {name}": [name] for name in own if own[name]["kind"] == "P2"}
    shown = ("gdig", "BM25, by turns", "RDS+", "top, mean", "diverse", "random", ORACLE)
    rows = []
    for label, names in groups.items():
        of = [own[name] for name in names]
        by_rule = {rule: losses(of, rule) for rule in shown}
        best = min((by_rule[rule] for rule in shown if rule != ORACLE), key=lambda x: float(x.mean()))
        level = {rule: rule != ORACLE and difference(x, best)[1] <= 0 for rule, x in by_rule.items()}
        rows.append([label, *(bold(f"{x.mean():.3f}") if level[r] else f"{x.mean():.3f}" for r, x in by_rule.items())])
    header = ["pool", "gdig", "BM25", "RDS+", "plain mean", "diverse", "random", "clean rows, known"]
    return table(header, *map(list, zip(*rows, strict=True)))


def effects() -> str:
    """What the inverse, the layers and the number of seeds change: the mean over the pools of one target."""
    names = {
        "the defaults: EK-FAC, damping 0.1, MLPs of both blocks, 24 seeds": "the defaults",
        "damping 0.01": "damping 0.01",
        "damping 1": "damping 1",
        "damping 10": "damping 10",
        "K-FAC": "K-FAC",
        "identity (no curvature)": "identity",
        "the last block but one alone": "MLP of block 0 alone",
        "the last block alone": "MLP of block 1 alone",
        "16 seeds": "16 of 24 seeds",
        "8 seeds": "8 of 24 seeds",
        "4 seeds": "4 of 24 seeds",
    }
    of = record("pretrained-effects")["effects"].values()
    losses = {name: np.concatenate([np.array(pool[name]["loss"]) for pool in of], 1) for name in names.values()}
    defaults = losses["the defaults"]
    rows = []
    for label, name in names.items():
        beside = "" if name == "the defaults" else interval(difference(losses[name], defaults), 3, 3, sign="+")
        good = float(np.mean([pool[name]["good"] for pool in of]))
        rows.append([label, f"{losses[name].mean():.3f}", beside, percent(good)])
    header = ["what is changed", "loss", "beside the defaults", "clean rows of the target"]
    return table(header, *map(list, zip(*rows, strict=True)))


def datamodels() -> str:
    """The linear datamodelling score of each method on halves of one pool."""
    labels = {"EK-FAC": "EK-FAC, damping 0.1 (the default)", "identity": "identity (gradient dot product)"}
    halves = record("pretrained-lds")["halves"]
    names = list(next(iter(halves.values()))["scores"])
    columns = [[_score(pool["scores"][name]) for name in names] for pool in halves.values()]
    return table(["LDS", *halves], [labels.get(name, name) for name in names], *columns)


def _score(result: Mapping[str, Any]) -> str:
    return interval((result["lds"], *result["interval"]), 2)


def methods() -> str:
    """The methods on three kinds of pools, for those who choose one."""
    generated = record("evidence-selection")["found"]["budgets"]["10%"]
    pairs = record("evidence-zh-en")["selections"][
        "scored by: small, clean, 4 epochs; trained from: small, clean, 4 epochs; 10%"
    ]
    names = {  # label: rule of the pretrained model, method of the language, method of the pairs
        "gdig": ("gdig", "gdig", "gdig"),
        "BM25, by turns": ("BM25, by turns", None, None),
        "BM25, by the mean over the seeds": (None, "top by BM25", "BM25"),
        "RDS+": ("RDS+", None, None),
        "top, by the mean": ("top, mean", "top by mean", "mean influence"),
        "tagcos": (None, "tagcos", "gdig --method tagcos"),
        "diverse": ("diverse", "diverse", "gdig --method diverse"),
        "low loss": ("loss", "loss", "low loss"),
        "random": ("random", "random", "random"),
    }
    mixed = [float(losses(pools("P1"), a).mean()) if a else None for a, _, _ in names.values()]
    tuned = [float(generated[b]["loss"][0]) if b else None for _, b, _ in names.values()]
    weak = [-1000 * float(pairs[c]["drop"]) if c else None for _, _, c in names.values()]
    columns = []
    for values, digits in ((mixed, 3), (tuned, 2), (weak, 1)):
        best = min(value for value in values if value is not None)
        cells = ["" if value is None else f"{value:.{digits}f}" for value in values]
        columns.append([bold(cell) if value == best else cell for cell, value in zip(cells, values, strict=True)])
    return table(["method", "mixed pool", "tuned on the pool", "weak model"], list(names), *columns)
