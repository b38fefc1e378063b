"""Models of growing competence: checkpoints of a few training runs, and each one's exact scores of the pool."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from benches.shared.steps import Steps
from benches.zh_en.exact import DEFAULT, IDENTITY, Metric, exact_scores
from benches.zh_en.pair_model import Recipe, encode, new_model, target_loss, train, train_tokenizer
from gdig.config.config import Config
from gdig.data.tokens import Example

SMALL = Recipe(4096, 128, 256, layers=3, token_batch_size=2048, schedule="warm")
MIDDLE = Recipe(4096, 256, 512, layers=4, token_batch_size=2048, learning_rate=1e-3, schedule="warm")
DAMPINGS = tuple(Metric(inversion, damping) for inversion in ("kfac", "ekfac") for damping in (0.01, 0.1, 1.0, 10.0))


@dataclass(frozen=True)
class Arm:
    """One training run: on which rows, from which checkpoint (arm's name, epoch) or from nothing, kept at which epochs.

    all_metrics: the epochs whose scores are computed in every metric; the others' by the identity and EK-FAC at 0.1.
    """

    name: str
    recipe: Recipe
    rows: str
    epochs: tuple[int, ...]
    start: tuple[str, int] | None = None
    all_metrics: tuple[int, ...] = ()


ARMS = (
    Arm("small, clean", SMALL, "training", (1, 2, 4, 8), all_metrics=(4,)),
    Arm("small, clean then pool", replace(SMALL, learning_rate=5e-4), "candidates", (1, 4), ("small, clean", 4), (1,)),
    Arm("small, pool", SMALL, "candidates", (1, 4)),
    Arm("middle, clean", MIDDLE, "training", (1, 3)),
    Arm("middle, clean then pool", replace(MIDDLE, learning_rate=2.5e-4), "candidates", (1,), ("middle, clean", 3)),
)


@dataclass(frozen=True)
class Checkpoint:
    """A kept model: its folder, and what `Arm` and epoch it is of. held: its loss on clean rows that it never saw."""

    arm: str
    epoch: int
    path: Path
    held: float
    trained: float

    @property
    def name(self) -> str:
        """In tables and files."""
        return f"{self.arm}, {self.epoch} epoch{'s' * (self.epoch > 1)}"


def train_arms(steps: Steps, rows: dict[str, Path], arms: Sequence[Arm]) -> dict[tuple[str, int], Checkpoint]:
    """Train every arm, or find it in the work folder: its checkpoints by (arm, epoch)."""
    disable_progress_bar()
    checkpoints: dict[tuple[str, int], Checkpoint] = {}
    vocab_size = arms[0].recipe.vocab_size

    def make_tokenizer(out: Path) -> None:
        train_tokenizer(rows["training"], vocab_size).save_pretrained(out)

    tokenizer = PreTrainedTokenizerFast.from_pretrained(steps.path("tokenizer", vocab_size, make_tokenizer))
    held = encode(rows["held"], tokenizer)
    for arm in arms:
        start = checkpoints[arm.start].path if arm.start else None
        make = partial(_train_arm, arm, start, rows[arm.rows], held, tokenizer)
        folder = steps.path(arm.name, [_asked(arm), str(start and start.parent.name)], make)
        facts = json.loads((folder / "facts.json").read_text())
        for epoch in arm.epochs:
            held_loss = facts["held"][str(epoch)]
            checkpoints[arm.name, epoch] = Checkpoint(arm.name, epoch, folder / str(epoch), held_loss, facts["trained"])
    return checkpoints


def _asked(arm: Arm) -> dict[str, Any]:
    asked = asdict(replace(arm, all_metrics=()))
    asked["recipe"] = {name: value for name, value in asked["recipe"].items() if value is not None}
    return asked


def _train_arm(
    arm: Arm, start: Path | None, rows: Path, held: list[Example], tokenizer: PreTrainedTokenizerFast, out: Path
) -> None:
    """Train one arm into the folder `out`: a folder for each epoch kept, and facts.json."""
    recipe = replace(arm.recipe, epochs=max(arm.epochs))
    model = LlamaForCausalLM.from_pretrained(start) if start else new_model(tokenizer, recipe)
    losses: dict[int, float] = {}

    def keep(epoch: int) -> None:
        losses[epoch] = target_loss(model, held)
        print(f"  held out: {losses[epoch]:.3f} a target token", flush=True)
        if epoch in arm.epochs:
            model.save_pretrained(out / str(epoch))
            tokenizer.save_pretrained(out / str(epoch))

    print(f"training: {arm.name}", flush=True)
    keep(0)
    last = train(model, encode(rows, tokenizer), recipe, keep)
    (out / "facts.json").write_text(json.dumps({"held": losses, "trained": last}))


def checkpoint_scores(steps: Steps, arm: Arm, checkpoint: Checkpoint, rows: dict[str, Path]) -> dict[str, np.ndarray]:
    """Exact scores of the pool by one checkpoint (see zh_en.exact)."""
    metrics = (IDENTITY, *DAMPINGS) if checkpoint.epoch in arm.all_metrics else (IDENTITY, DEFAULT)
    options: dict[str, Any] = {"fit_tokens": 50_000, "token_batch_size": 4096}
    asked = [checkpoint.path.parent.name, checkpoint.epoch, [asdict(metric) for metric in metrics], options]
    options |= {"model": checkpoint.path, "candidates": rows["candidates"], "seeds": rows["seeds"]}
    return steps.arrays(f"scores {checkpoint.name}", asked, lambda: exact_scores(Config.build(options), metrics))
