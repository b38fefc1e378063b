"""A collection: the rows from which several pools are made, each row once, with what the passes tell of it."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from benches.pretrained import signals
from benches.pretrained.pretrained_model import UPPER, lower_states, over_states
from benches.pretrained.rows import Row, read_rows, spoil
from benches.shared.steps import Steps
from gdig.config.config import Config
from gdig.config.options import DataOptions
from gdig.data.corpus import open_corpus
from gdig.data.tokens import Encoder, Example
from gdig.model.causal_model import Model

ROLES = ("pool", "seed", "held")


@dataclass(frozen=True)
class Plan:
    """How many rows of each task a collection has.

    targets: tasks with seeds and held-out rows; others: tasks of the pools alone. clean, spoiled, seeds, held: rows of
    each target; the spoiled ones are copies of the first clean ones, so a pool has one or the other. other: rows of
    each other task. fit: rows of the pool that the curvature is fitted on. longest, longest_pair: tokens at most of a
    row and of a translation, whose Chinese takes two tokens a character.
    """

    name: str
    targets: tuple[str, ...]
    others: tuple[str, ...]
    clean: int
    spoiled: int
    seeds: int
    held: int
    other: int
    fit: int
    longest: int = 56
    longest_pair: int = 96
    random_seed: int = 0


TASKS = Plan(
    "tasks",
    ("translation", "common_gen", "gigaword", "sciq", "commonsense_qa", "rotten_tomatoes"),
    ("kilt_tasks", "social_i_qa", "glue_qqp", "app_reviews"),
    clean=64, spoiled=16, seeds=24, held=40, other=36, fit=400,
)  # fmt: skip
PAIRS = Plan(
    "pairs", ("translation",), (), clean=200, spoiled=60, seeds=32, held=40, other=0, fit=260, random_seed=1,
)  # fmt: skip


@dataclass
class Collection:
    """Rows of all roles in one order, and their examples over the states of the upper model.

    Attributes:
        plan: what was asked.
        rows: every row. role: int [n], index into ROLES.
        examples: over the states. states: float32 [T, H]. words: the same examples over token ids.
        seed_rows, pool_rows: int, the rows of the role.
        signals: arrays by name: influence [N, S], loss [N], sketch and hidden of all rows, ...; N are `pool_rows`.
    """

    plan: Plan
    rows: list[Row]
    role: np.ndarray
    examples: list[Example]
    states: np.ndarray
    signals: dict[str, np.ndarray]
    words: list[Example]

    def where(self, role: str, task: str | None = None) -> np.ndarray:
        """Numbers of the rows of a role, of one task or of all."""
        tasks = np.array([row.task for row in self.rows])
        return np.flatnonzero((self.role == ROLES.index(role)) & ((tasks == task) | (task is None)))


def draw_rows(plan: Plan, data: Path, tokenizer: PreTrainedTokenizerBase) -> tuple[list[Row], list[str]]:
    """Draw the collection's rows and roles."""
    rng, rows, roles = random.Random(plan.random_seed), [], []
    for task, own in read_rows(data).items():
        if task not in plan.targets + plan.others:
            continue
        rng.shuffle(own)
        wanted = plan.clean + plan.seeds + plan.held if task in plan.targets else plan.other
        longest = plan.longest_pair if task == "translation" else plan.longest
        short = [row for row, e in zip(own, encode(own, tokenizer, 10**6), strict=True) if len(e) <= longest]
        if len(short) < wanted:
            raise ValueError(f"{task}: {len(short)} rows of at most {longest} tokens, expected {wanted}")
        pool = short[: plan.clean] if task in plan.targets else short[: plan.other]
        spoiled = spoil(pool[: plan.spoiled], rng) if task in plan.targets else []
        rows += pool + spoiled + short[len(pool) : wanted]
        roles += ["pool"] * (len(pool) + len(spoiled))
        if task in plan.targets:
            roles += ["seed"] * plan.seeds + ["held"] * plan.held
    return rows, roles


def encode(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, window: int) -> list[Example]:
    """Encode rows as gdig does, in the format completion, as plain prompts."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        file.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows), encoding="utf-8")
        corpus = open_corpus([file], cache_dir=folder)
        encoder = Encoder(DataOptions(chat_template=False), "completion", tokenizer, window)
        examples = encoder.encode(corpus, range(len(rows)))
    wrong = [e for e in examples if not isinstance(e, Example)]
    if wrong:
        raise ValueError(f"a row cannot be used: {wrong[0]}")
    return [e for e in examples if isinstance(e, Example)]


def curvature_of(collection: Collection, model: Path, steps: Steps) -> dict[str, np.ndarray]:
    """Fit the curvature on rows of the pool, or take the finished step."""
    plan, pool = collection.plan, collection.where("pool")
    sample = np.sort(np.random.default_rng(0).permutation(len(pool))[: plan.fit])

    def fit() -> dict[str, np.ndarray]:
        layers = signals.frozen(model, collection.states, "mlp", UPPER)
        return signals.curvature(*layers, [collection.examples[i] for i in pool[sample]])

    return steps.arrays(f"{plan.name}: curvature", [asdict(plan), UPPER], fit)


def collect(
    plan: Plan, data: Path, model: Path, tokenizer: PreTrainedTokenizerBase, steps: Steps, with_variants: bool = False
) -> Collection:
    """Make the collection, or take the finished steps. Variants of the influence cost as much again."""
    asked: list[Any] = [asdict(plan), UPPER]
    rows, roles = draw_rows(plan, data, tokenizer)
    examples = encode(rows, tokenizer, 10**6)
    states = steps.arrays(f"{plan.name}: states", asked, lambda: {"states": lower_states(model, examples)})["states"]
    role = np.array([ROLES.index(name) for name in roles])
    collection = Collection(plan, rows, role, over_states(examples), states, {}, examples)
    pool, seeds = collection.where("pool"), collection.where("seed")
    pool_examples, seed_examples = ([collection.examples[i] for i in indices] for indices in (pool, seeds))
    own = collection.signals

    def layers(pattern: str) -> tuple[Model, Config]:
        return signals.frozen(model, states, pattern, UPPER)

    own |= steps.arrays(
        f"{plan.name}: sketches", asked, lambda: signals.sketches(*layers("mlp"), pool_examples + seed_examples)
    )

    def fisher() -> dict[str, np.ndarray]:
        return signals.fisher_sketches(*layers("mlp"), curvature_of(collection, model, steps), pool_examples)

    own |= steps.arrays(f"{plan.name}: sketches in Fisher space", asked, fisher)
    for block in range(UPPER):

        def other(block: int = block) -> dict[str, np.ndarray]:
            arrays = curvature_of(collection, model, steps)
            upper = layers(rf"layers\.{block}\.mlp")
            return signals.exact_influence(*upper, arrays, pool_examples, seed_examples, signals.VARIANTS)

        def influence(block: int = block) -> dict[str, np.ndarray]:
            arrays = curvature_of(collection, model, steps)
            return signals.exact_influence(*layers(rf"layers\.{block}\.mlp"), arrays, pool_examples, seed_examples)

        of_block = steps.arrays(f"{plan.name}: influence of block {block}", asked, influence)
        own |= {f"{name} of block {block}": of_block[name] for name in ("influence 0.1", "square 0.1", "gram 0.1")}
        own |= {name: of_block[name] for name in ("loss", "seed loss")}
        if with_variants:
            variants = steps.arrays(f"{plan.name}: variants of block {block}", asked, other)
            own |= {name: own.get(name, 0) + x for name, x in variants.items() if not name.endswith("loss")}
    for name in ("influence 0.1", "square 0.1", "gram 0.1"):
        own[name.split()[0]] = sum(own[f"{name} of block {block}"] for block in range(UPPER))  # type: ignore[assignment]
    own["bm25"] = signals.bm25([rows[i] for i in pool], [rows[i] for i in seeds])
    return collection
