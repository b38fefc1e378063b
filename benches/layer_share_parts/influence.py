"""The exact influence of real rows on seeds by each linear layer of a pretrained model."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benches.layer_share_parts.choices import WHOLE, chosen
from benches.pretrained.collection import encode
from benches.pretrained.pretrained_model import load_tokenizer
from benches.pretrained.rows import read_rows, spoil
from benches.pretrained.signals import DEFAULT, OPTIONS, TOKENS, layer_influence
from benches.shared.gradients import each_layer
from benches.shared.steps import Steps
from gdig.config.config import Config
from gdig.data.tokens import Example
from gdig.influence.curvature import fit_curvature
from gdig.model.capture import GradientPass
from gdig.model.causal_model import Model
from gdig.model.load import load_model
from gdig.planning.pass_trial import block_number
from gdig.progress import Progress

BLOCKS_AT_ONCE = 15
"""Blocks whose layers are in one pass: the whole gradients of 12 seeds in 15 blocks take 2.5 GB."""


@dataclass(frozen=True)
class Rows:
    """How many rows of each task: clean, spoiled and seeds; the longest row in tokens; tokens of the fit."""

    tasks: tuple[str, ...] = (
        "common_gen", "gigaword", "sciq", "commonsense_qa", "social_i_qa", "rotten_tomatoes",
    )  # fmt: skip
    clean: int = 14
    spoiled: int = 4
    seeds: int = 2
    longest: int = 48
    fit_tokens: int = 4096


@dataclass
class Drawn:
    """The rows: task and whether clean, of each row; task of each seed; examples; and others for the fit, mixed."""

    task: np.ndarray
    clean: np.ndarray
    seed_task: np.ndarray
    rows: list[Example]
    seeds: list[Example]
    others: list[Example]

    @property
    def tokens(self) -> int:
        """Tokens of all rows."""
        return sum(map(len, self.rows))


def draw(plan: Rows, data: Path, model: Path) -> Drawn:
    """Draw the rows of each task; the spoiled ones are rows of their own."""
    tokenizer, rng = load_tokenizer(model), random.Random(0)
    rows, seeds, others, task, clean = [], [], [], [], []
    by_task = read_rows(data)
    for number, name in enumerate(plan.tasks):
        own = list(by_task[name])
        rng.shuffle(own)
        short = [r for r, e in zip(own, encode(own, tokenizer, 10**6), strict=True) if len(e) <= plan.longest]
        wanted = plan.clean + plan.spoiled + plan.seeds
        if len(short) < wanted:
            raise ValueError(f"{name}: {len(short)} rows of at most {plan.longest} tokens, expected {wanted}")
        rows += short[: plan.clean] + spoil(short[plan.clean : plan.clean + plan.spoiled], rng)
        seeds += short[wanted - plan.seeds : wanted]
        others += short[wanted:]
        task += [number] * (plan.clean + plan.spoiled)
        clean += [True] * plan.clean + [False] * plan.spoiled
    rng.shuffle(others)
    return Drawn(
        np.array(task),
        np.array(clean),
        np.repeat(np.arange(len(plan.tasks)), plan.seeds),
        encode(rows, tokenizer, 10**6),
        encode(seeds, tokenizer, 10**6),
        encode(others, tokenizer, 10**6),
    )


def first_tokens(examples: Sequence[Example], tokens: int) -> list[Example]:
    """The first examples, as many as it takes to have so many tokens.

    Raises:
        ValueError: when all of them have fewer.
    """
    ends = np.cumsum([len(example) for example in examples])
    if ends[-1] < tokens:
        raise ValueError(f"expected rows with {tokens} tokens, found {ends[-1]}")
    return list(examples[: int(np.searchsorted(ends, tokens)) + 1])


class LayerInfluence:
    """Influence by layer, from finished steps or computed.

    Attributes:
        drawn: the rows and seeds.
    """

    def __init__(self, steps: Steps, plan: Rows, drawn: Drawn, path: Path) -> None:
        self._steps, self._plan, self.drawn = steps, plan, drawn
        self._config = Config.build(
            {**OPTIONS, "model": str(path), "layers": WHOLE, "token_batch_size": TOKENS, "quiet": True}
        )
        self._model = load_model(self._config)
        self._asked: list[Any] = [asdict(plan), path.name]

    def chosen(self, text: str) -> np.ndarray:
        """Which layers a value of `layers` chooses: bool [K]."""
        return chosen(text, self._model, self._config)

    def of_all(self) -> dict[str, np.ndarray]:
        """Influence [K, N, S], square [K, N] and gram [K, S, S] of the K layers of all blocks."""
        blocks = np.array(block_number(self._model.layers))
        sample = first_tokens(self.drawn.others, self._plan.fit_tokens)
        by_blocks = []
        for first in range(0, int(blocks.max()) + 1, BLOCKS_AT_ONCE):
            at = np.flatnonzero((first <= blocks) & (blocks < first + BLOCKS_AT_ONCE)).tolist()

            def make(at: list[int] = at) -> dict[str, np.ndarray]:
                return self._influence(at, sample)

            name = f"influence of blocks {first} to {blocks[at].max()}"
            by_blocks.append(self._steps.arrays(name, self._asked, make))
        return {name: np.concatenate([x[name] for x in by_blocks]) for name in ("influence", "square", "gram")}

    def of_plain_gradients(self) -> dict[str, np.ndarray]:
        """The same without a curvature: products of the gradients themselves, by products of their tokens."""
        return self._steps.arrays("products of gradients", self._asked, self._products)

    def _influence(self, at: Sequence[int], sample: Sequence[Example]) -> dict[str, np.ndarray]:
        model: Model = replace(self._model, layers=[self._model.layers[i] for i in at])
        keys = np.arange(len(sample), dtype=np.uint64)
        factors, _ = fit_curvature(model, sample, keys, self._config, Progress(quiet=True))
        by_layer = layer_influence(model, self._config, factors, self.drawn.rows, self.drawn.seeds)
        return {name: by_layer[f"{name} {DEFAULT}"] for name in ("influence", "square", "gram")}

    @torch.no_grad()
    def _products(self) -> dict[str, np.ndarray]:
        """<G_e, G_s> = sum over the tokens t of e and u of s of (a_t . a_u) (d_t . d_u); and |G_e|^2."""
        drawn, gradients = self.drawn, GradientPass(self._model, self._config.loss_reduction)
        n_layers, n_rows, n_seeds = len(self._model.layers), len(drawn.rows), len(drawn.seeds)
        influence, square = np.zeros((n_layers, n_rows, n_seeds), np.float32), np.zeros((n_layers, n_rows))
        tokens: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[] for _ in self._model.layers]

        def keep(index: int, at: torch.Tensor, a: torch.Tensor, d: torch.Tensor) -> None:
            tokens[index] += [(x.clone(), y.clone()) for x, y in zip(a, d, strict=True)]

        def compare(index: int, at: torch.Tensor, a: torch.Tensor, d: torch.Tensor) -> None:
            for s, (x, y) in enumerate(tokens[index]):
                influence[index, at.numpy(), s] = ((a @ x.T) * (d @ y.T)).sum((1, 2)).numpy()
            square[index, at.numpy()] = ((a @ a.mT) * (d @ d.mT)).sum((1, 2)).double().numpy()

        for seed in drawn.seeds:  # one by one, so that they stay in order
            each_layer(gradients, [seed], keep, TOKENS)
        each_layer(gradients, drawn.rows, compare, 512)
        return {"influence": influence, "square": square}
