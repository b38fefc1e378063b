"""Training on what a method chooses: the same start, the same steps, and the loss of clean rows kept aside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from benches.shared.steps import Steps
from benches.zh_en.competence import Checkpoint
from benches.zh_en.pair_model import Recipe, encode, target_loss, train

RECIPE = Recipe(token_batch_size=2048, learning_rate=3e-4, schedule="cycle", steps=40)


class Retraining:
    """Trains from checkpoints on chosen rows of the pool, or finds that it has been done."""

    def __init__(self, steps: Steps, rows: dict[str, Path], tokenizer: PreTrainedTokenizerFast) -> None:
        self._steps = steps
        self._held = encode(rows["held"], tokenizer)
        self._pool = encode(rows["candidates"], tokenizer)

    def held_loss(self, start: Checkpoint, chosen: np.ndarray, random_seed: int) -> float:
        """Loss a target token of the held rows, after training from `start` on the rows `chosen`.

        random_seed: draws the order of the rows.
        """
        rows = np.sort(chosen).tolist()
        recipe = replace(RECIPE, random_seed=random_seed)

        def compute() -> float:
            model = LlamaForCausalLM.from_pretrained(start.path)
            train(model, [self._pool[row] for row in rows], recipe)
            return target_loss(model, self._held)

        asked = [start.path.parent.name, start.epoch, rows, asdict(recipe)]
        return self._steps.facts(f"retrained from {start.name}", asked, compute)

    def compare(
        self, start: Checkpoint, choices: dict[str, Sequence[np.ndarray]], kinds: np.ndarray
    ) -> dict[str, dict[str, Any]]:
        """For each method its choices, one a seed: the share of clean rows, the mean drop of the held rows' loss, and
        the standard error of the mean over the seeds."""
        table = {}
        for method, chosen in choices.items():
            losses = [self.held_loss(start, rows, random_seed) for random_seed, rows in enumerate(chosen)]
            table[method] = {
                "rows": len(chosen[0]),
                "clean": float(np.mean([np.mean(kinds[rows] == "clean") for rows in chosen])),
                "held loss": float(np.mean(losses)),
                "drop": start.held - float(np.mean(losses)),
                "error": float(np.std(losses, ddof=1) / len(losses) ** 0.5),
            }
        return table


def best(score: np.ndarray, n: int, random_seed: int) -> np.ndarray:
    """The n best rows; ties (agreement has many) in a random order."""
    order = np.random.default_rng(random_seed).permutation(len(score))
    return order[np.argsort(-score[order], kind="stable")[:n]]
