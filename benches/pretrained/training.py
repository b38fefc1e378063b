"""Short trainings of the upper blocks on chosen rows, by LoRA on all their linear layers, and the held-out loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model

from benches.pretrained.pretrained_model import UPPER, upper_model
from gdig.data.tokens import Example
from gdig.model.batches import Batch, make_batches


@dataclass(frozen=True)
class Recipe:
    """Every choice trains so many AdamW steps of so many rows, whatever its size; the rate falls to 0 as a line.

    The loss of a row is the mean over its target tokens, that of a batch the mean over its rows.
    """

    steps: int = 10
    batch_size: int = 8
    learning_rate: float = 2e-3
    rank: int = 8


class Trainer:
    """Trains from the same start again and again.

    Args:
        model: folder of the whole model. states: of `lower_states`. examples: over the states.
    """

    def __init__(self, model: Path, states: np.ndarray, examples: Sequence[Example], recipe: Recipe) -> None:
        self.examples, self.recipe = examples, recipe
        upper = upper_model(model, states, UPPER)
        upper.requires_grad_(False)
        lora = LoraConfig(r=recipe.rank, lora_alpha=2 * recipe.rank, target_modules="all-linear")
        self._module = get_peft_model(upper, lora)
        self._trained = [(name, p) for name, p in self._module.named_parameters() if p.requires_grad]

    @property
    def asked(self) -> dict[str, float]:
        """What a finished training depends on besides its rows."""
        return {**asdict(self.recipe), "upper": UPPER}

    def outcome(self, rows: np.ndarray, held: np.ndarray, random_seed: int) -> np.ndarray:
        """Loss of each held row, float64, after training on `rows` in a random order."""
        self._train(rows, random_seed)
        return self.losses(held)

    def answers(self, rows: np.ndarray | None, held: np.ndarray, random_seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Loss of each held row after training, or before any where rows are None, and whether its answer is exact.

        A greedy answer is the target where each token of the target is the most likely one after those before it. So
        one pass over the target tells.
        """
        if rows is None:
            self._reset(random_seed)
        else:
            self._train(rows, random_seed)
        return self.losses(held), self._exact(held)

    def _train(self, rows: np.ndarray, random_seed: int) -> None:
        self._reset(random_seed)
        rng, recipe = np.random.default_rng([random_seed, 1]), self.recipe
        wanted = recipe.steps * recipe.batch_size
        order = np.concatenate([rng.permutation(np.sort(rows)) for _ in range(-(-wanted // len(rows)))])[:wanted]
        optimizer = torch.optim.AdamW([p for _, p in self._trained], lr=recipe.learning_rate, weight_decay=0.0)
        for step, chosen in enumerate(np.split(order, recipe.steps)):
            optimizer.param_groups[0]["lr"] = recipe.learning_rate * (1 - step / recipe.steps)
            optimizer.zero_grad(set_to_none=True)
            for batch in make_batches([self.examples[i] for i in chosen], 1024):  # short and long rows apart: few pads
                (self._losses(batch).sum() / recipe.batch_size).backward()
            torch.nn.utils.clip_grad_norm_([p for _, p in self._trained], 1.0)
            optimizer.step()

    @torch.no_grad()
    def _exact(self, rows: np.ndarray) -> np.ndarray:
        exact = np.zeros(len(rows), bool)
        for batch in make_batches([self.examples[i] for i in rows], 1024):
            logits, labels, counts = self._logits(batch)
            right = (logits.argmax(1) == labels).double()
            exact[batch.rows] = (torch.segment_reduce(right, "min", lengths=counts) == 1).numpy()
        return exact

    @torch.no_grad()
    def losses(self, rows: np.ndarray) -> np.ndarray:
        """Loss of each row under the model as it is, float64."""
        losses = np.zeros(len(rows))
        for batch in make_batches([self.examples[i] for i in rows], 1024):
            losses[batch.rows] = self._losses(batch).double().numpy()
        return losses

    def untrained(self, rows: np.ndarray) -> np.ndarray:
        """Loss of each row before any training."""
        self._reset(0)
        return self.losses(rows)

    def _losses(self, batch: Batch) -> torch.Tensor:
        logits, labels, counts = self._logits(batch)
        nll = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        return torch.segment_reduce(nll, "mean", lengths=counts)

    def _logits(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits [P, words] at the places that predict a target, the targets [P], and how many each row has."""
        model = self._module.get_base_model()
        hidden = model.model(input_ids=torch.from_numpy(batch.input_ids).long(), use_cache=False).last_hidden_state
        predictors, labels, counts = batch.targets
        logits = model.lm_head(hidden.flatten(0, 1)[torch.from_numpy(predictors)])
        return logits, torch.from_numpy(labels), torch.from_numpy(counts)

    def _reset(self, random_seed: int) -> None:
        generator = torch.Generator().manual_seed(random_seed)
        for name, p in self._trained:
            bound = p.shape[1] ** -0.5
            drawn = (torch.rand(p.shape, generator=generator) * 2 - 1) * bound
            p.data = torch.zeros_like(p) if "lora_B" in name else drawn
