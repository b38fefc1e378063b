"""Sentences of the documentation that hold figures. They are written by hand; a test compares them with the records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benches.figures_parts import pretrained
from benches.figures_parts.cells import interval, record
from benches.pretrained.result_tables import interval as difference


def _below(own: np.ndarray, other: np.ndarray) -> tuple[float, float, float]:
    """How far `own` losses are below others, with the 95 % interval."""
    value, low, high = difference(own, other)
    return -value, -high, -low


def _lds() -> str:
    return (
        f"No score could reach more than {record('evidence-datamodels')['found']['noise']['lds']['ceiling']:.2f} here."
    )


def _noise() -> str:
    noise = record("evidence-datamodels")["found"]["noise"]["lds"]
    agreement, most = noise["agreement of two trainings"][0], noise["ceiling"]
    return f"Two trainings of one half agree to {agreement:.2f}, so {most:.2f} is the most that any score could reach."


def _before_the_pool() -> str:
    methods = record("evidence-datamodels")["found"]["methods"]
    before, after = (methods[name]["lds"][0] for name in ("ekfac 0.1, before the pool", "ekfac 0.1"))
    return f"| a model not tuned on the pool | LDS {before:.3f} instead of {after:.3f} |"


def _whole_pool() -> str:
    whole = record("evidence-selection")["found"]["full pool"]
    return f"(the whole pool: {whole['loss'][0]:.2f} / {whole['exact'][0]:.2f})"


def _checkpoints() -> str:
    results = record("evidence-selection")["found"]["less, clean against spoiled"]
    first, second, third = (result["auroc"] for result in results.values())
    rest = record("evidence-datamodels")["found"]["methods"]["LESS cosine"]["auroc"]
    by_checkpoint = f"{first:.2f}, {second:.2f} and {third:.2f} by its three checkpoints"
    return f"Its AUROC is {by_checkpoint}, {rest:.2f} with moments at rest."


def _whole_pool_of_pairs() -> str:
    selections = record("evidence-zh-en")["selections"]
    whole = next(iter(selections.values()))["the whole pool"]
    return f"(the whole pool: {1000 * whole['drop']:.1f})"


def _ahead_of_rds(digits: int) -> str:
    pools = pretrained.pools("P1")
    values = difference(pretrained.losses(pools, "RDS+"), pretrained.losses(pools, "gdig"))
    return f"ahead of RDS+ by {interval(values, digits, digits)}"


def _one_target_of_six() -> str:
    own = {pool["targets"][0]: pool for pool in pretrained.pools("P1")}
    alone = [own.pop("rotten_tomatoes")]

    def of(pools: list[dict[str, Any]]) -> str:
        rules = {"gdig": "gdig", "BM25": "BM25, by turns", "RDS+": "RDS+"}
        return ", ".join(f"{label} {pretrained.losses(pools, rule).mean():.3f}" for label, rule in rules.items())

    return f"That lead is of one target, rotten_tomatoes: {of(alone)}. On the five others: {of([*own.values()])}."


def _beside_bm25() -> str:
    pools = pretrained.pools("P1")
    budgets = sorted(pools[0]["outcomes"], key=float)
    values = [
        difference(pretrained.losses(pools, "gdig", b), pretrained.losses(pools, "BM25, by turns", b)) for b in budgets
    ]
    *first, last = (interval(own, 3, 3) for own in values)
    return f"Beside BM25: {', '.join(first)} and {last}."


def _ahead_of_the_mean() -> str:
    pools = pretrained.pools("P1")
    rules = ("top, mean", "gdig")
    by = [difference(*(pretrained.losses(pools, rule, budget) for rule in rules))[0] for budget in ("0.1", "0.2")]
    return f"It is ahead of the plain mean by {by[0]:.2f} and {by[1]:.2f} at 10 and 20 %."


def _ahead_of_gdig(kind: str, rule: str, digits: int = 3) -> list[str]:
    """By how much a rule is ahead of gdig in each pool of a kind."""
    values = [
        difference(pretrained.losses([pool], "gdig"), pretrained.losses([pool], rule))
        for pool in pretrained.pools(kind)
    ]
    return [interval(own, digits, digits) for own in values]


def _many_targets() -> str:
    mean, bm25 = _ahead_of_gdig("P3", "top, mean", 2)[0], _ahead_of_gdig("P3", "BM25, by turns")[1]
    return f"The plain mean gives it most, and is ahead by {mean}. With three, BM25 is ahead by {bm25}."


def _pure_repeats() -> str:
    return f"RDS+, which takes repeats, is ahead by {' and '.join(_ahead_of_gdig('P4', 'RDS+'))}."


def _longer() -> str:
    pools = [pool for pool in record("pretrained-longer")["pools"].values() if pool["kind"] == "P1"]
    own = pretrained.losses(pools, "gdig")
    rules = ("BM25, by turns", "RDS+")
    bm25, rds = (interval(difference(pretrained.losses(pools, rule), own), 3, 3) for rule in rules)
    return f"On the pools of one target gdig is ahead of BM25 by {bm25}, of RDS+ by {rds}."


def _second_language() -> str:
    outcomes: dict[str, Any] = record("pretrained-generated-1")["pools"]["generated language 1"]["outcomes"]["0.1"]
    own, random, agreement = (
        np.array(outcomes[rule]["loss"]) for rule in ("blended cosine, by turns", "random", "gdig, the default")
    )
    by = [interval(_below(own, other), 2) for other in (random, agreement)]
    return f"There it is ahead of random rows by {by[0]}, and of `agreement` by {by[1]}."


def _one_sided_seeds() -> str:
    scores = record("evidence-zh-en")["seeds"]["small, clean, 4 epochs"]["scores"]
    kinds = ("of one topic", "the shortest third", "the longest third")
    all_kinds = scores["32 seeds"]["mean / spread over seeds"][0]
    lost = max(all_kinds - scores[f"32 seeds, {kind}"]["mean / spread over seeds"][0] for kind in kinds)
    return f"Seeds of one topic or one length lost at most {lost:.2f} of the AUROC"


def _real_pairs() -> str:
    facts = record("real_zh_en")
    rows = facts["rows"]
    return (
        f"{rows['pairs']} real Chinese-English pairs give {rows['candidates']} candidates "
        f"({facts['pool_tokens']} tokens) and {rows['seeds']} clean seeds."
    )


def _near_copies() -> str:
    copies = record("redundancy")["copies"]

    def cost(way: str) -> str:
        search = copies[way]
        recall, seconds, megabytes = 100 * search["recall"], search["search_cpu_s"], search["own_bytes"] / 1e6
        return f"{recall:.1f} % of the planted copies in {seconds:.1f} processor seconds and {megabytes:.0f} MB"

    sketches = f"{copies['rows']:,} sketches of {copies['dim']} columns"
    return (
        f"In all rows of {sketches}, gdig's walk finds {cost('gdig')}. "
        f"SemHash {copies['SemHash']['version']} finds {cost('SemHash')}."
    )


SENTENCES: tuple[tuple[str, Callable[[], str]], ...] = (
    ("README.md", lambda: _ahead_of_rds(2)),
    ("docs/evidence.md", _lds),
    ("docs/evidence.md", _whole_pool),
    ("docs/evidence.md", _whole_pool_of_pairs),
    ("docs/evidence.md", lambda: _ahead_of_rds(3)),
    ("docs/evidence.md", _one_target_of_six),
    ("docs/evidence.md", _beside_bm25),
    ("docs/evidence.md", _ahead_of_the_mean),
    ("docs/evidence.md", _longer),
    ("docs/evidence.md", _many_targets),
    ("docs/evidence.md", _pure_repeats),
    ("docs/evidence.md", _second_language),
    ("docs/evidence.md", _before_the_pool),
    ("docs/evidence-details.md", _before_the_pool),
    ("docs/evidence-details.md", _noise),
    ("docs/evidence-details.md", _checkpoints),
    ("docs/evidence-details.md", _real_pairs),
    ("docs/redundancy.md", _near_copies),
    ("docs/seeds.md", _one_sided_seeds),
)
"""Page, and the function that makes the sentence."""
