"""What `gdig select` itself chooses, by the whole model: at its defaults, and with one thing changed.

The other parts take gradients of the blocks that train, because passes over the lower ones cost hours. Here the command
runs over the whole model, by its default layers or by others, and the same trainings judge its choice.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

import gdig
from benches.pretrained.collection import Collection, encode
from benches.pretrained.effects import BUDGET
from benches.pretrained.pools import Pool
from benches.pretrained.pretrained_model import load_tokenizer
from benches.pretrained.training import Trainer
from benches.pretrained.trials import describe
from benches.shared.steps import Steps
from gdig.model.batches import make_batches

DEFAULT = "the default"
"""Layers as the command chooses them: the MLPs of the upper 8 of 30 blocks."""
TUNED = "a model tuned on the pool"
OPTIONS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "the loss by its sum": {"loss_reduction": "sum"},
    "chat template": {"chat_template": True},
    TUNED: {},
    "attention too": {"layers": "upper:0.25"},
    "the upper third": {"layers": "mlp:upper:0.334"},
    "mlp": {"layers": "mlp"},
}
"""What is changed, and the options of gdig for it."""
TUNING_RATE, TUNING_BATCH = 2e-5, 8
FIT_TOKENS = 6144
"""Four times the widest factor. A larger sample tells rows apart no better (LOG.md), and takes longer."""


def measure(
    collection: Collection, pool: Pool, steps: Steps, model: Path, trainer: Trainer, change: str,
    random_seeds: Sequence[int],
) -> dict[str, Any]:  # fmt: skip
    """Held-out loss [trainings, rows] and the share of good rows, with one of `OPTIONS`."""
    chosen = _chosen(collection, pool, steps, model, change)
    rows = np.sort(pool.rows[chosen])
    losses = []
    for random_seed in random_seeds:
        asked = [rows.tolist(), pool.held.tolist(), random_seed, trainer.asked]
        train = lambda seed=random_seed: trainer.outcome(rows, pool.held, seed).tolist()  # noqa: E731
        losses.append(steps.facts(f"training {pool.name}", asked, train))
    return {"loss": np.round(losses, 5).tolist(), **describe(pool, chosen)}


def _chosen(collection: Collection, pool: Pool, steps: Steps, model: Path, change: str) -> np.ndarray:
    """The package's choice with something changed, or the finished step."""
    whole = [pool.rows.tolist(), pool.seeds.tolist()]

    def make() -> list[int]:
        path = model
        if change == TUNED:
            path = steps.path(f"model tuned on {pool.name}", whole, lambda out: _tune(collection, pool, model, out))
        return _choose(collection, pool, path, OPTIONS[change]).tolist()

    return np.array(
        steps.facts(f"choice {pool.name} by {change}", [*whole, change, FIT_TOKENS, gdig.__version__], make)
    )


def _choose(collection: Collection, pool: Pool, model: Path, changed: Mapping[str, Any]) -> np.ndarray:
    """Places in the pool of the rows that the package chooses at its defaults, but for what is changed."""
    seed_rows = collection.where("seed")[pool.seeds]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, rows in (("pool.jsonl", pool.rows), ("seeds.jsonl", seed_rows)):
            texts = [{key: getattr(collection.rows[i], key) for key in ("prompt", "completion")} for i in rows]
            (folder / file).write_text("".join(json.dumps(text) + "\n" for text in texts), encoding="utf-8")
        options: dict[str, Any] = {"chat_template": False, "fit_tokens": FIT_TOKENS, **changed}
        selection = gdig.select(
            model=str(model),
            candidates=[str(folder / "pool.jsonl")],
            seeds=[str(folder / "seeds.jsonl")],
            run_path=str(folder / "run"),
            budget=str(round(BUDGET * len(pool.rows))),
            quiet=True,
            threads=1,
            **options,
        )
    return np.asarray(selection.rows)


def _tune(collection: Collection, pool: Pool, model: Path, out: Path) -> None:
    """Train all weights for an epoch of the pool's rows, and save the model."""
    tokenizer = load_tokenizer(model)
    examples = encode([collection.rows[i] for i in pool.rows], tokenizer, 10**6)
    module = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    optimizer = torch.optim.AdamW(module.parameters(), lr=TUNING_RATE, weight_decay=0.0)
    for chosen in np.array_split(np.random.default_rng(0).permutation(len(examples)), len(examples) // TUNING_BATCH):
        optimizer.zero_grad(set_to_none=True)
        for batch in make_batches([examples[i] for i in chosen], 1024):
            predictors, labels, counts = batch.targets
            logits = module(input_ids=torch.from_numpy(batch.input_ids).long(), use_cache=False).logits
            picked = logits.flatten(0, 1)[torch.from_numpy(predictors)]
            nll = torch.nn.functional.cross_entropy(picked, torch.from_numpy(labels), reduction="none")
            (torch.segment_reduce(nll, "mean", lengths=torch.from_numpy(counts)).sum() / len(chosen)).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
    module.save_pretrained(out)
    tokenizer.save_pretrained(out)
