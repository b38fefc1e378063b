"""What fit and sweep cost by choice of layers, in processor seconds beside a plain forward and backward pass."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from benches.layer_share_parts.choices import CHOICES
from benches.pretrained.collection import encode
from benches.pretrained.pretrained_model import load_tokenizer
from benches.pretrained.rows import Row
from benches.pretrained.signals import OPTIONS
from benches.shared.instructions import write_inputs
from benches.shared.steps import Steps
from benches.sweep_parts.plain_passes import plain_pass, rectangles, trainable
from gdig.config.config import Config
from gdig.data.tokens import Example
from gdig.influence.curvature import fit_curvature
from gdig.influence.seed_factors import SeedFactors
from gdig.model.load import load_model
from gdig.passes.influence_pass import make_influence_pass
from gdig.progress import Progress

TOKENS = 512
SEEDS, COLUMNS = 64, 35
"""Seeds, and columns of a seed at a layer: what 64 seeds of SmolLM2 have on average."""
SAMPLES = (8, 32)
"""Rows of two samples. Their difference gives the cost of a row, the rest is that of the eigenvectors."""
ROWS = 200
"""Rows that the whole cost is given for."""


def cost(steps: Steps, path: Path, data: Path, choices: Sequence[str] = CHOICES) -> dict[str, Any]:
    """Seconds of fit and sweep over `ROWS` rows by choice of layers, and what share of a plain pass that is.

    Each choice is measured right after a plain pass, because machines drift.
    """
    examples = _examples(path, data)
    by_choice = {}
    for text in choices:

        def measure(text: str = text) -> dict[str, Any]:
            return _of_choice(text, path, examples)

        by_choice[text] = steps.facts(f"cost of {text}", [path.name, SAMPLES, ROWS], measure)
    length = sum(map(len, examples)) / len(examples)
    return {"rows": ROWS, "tokens of a row": round(length, 1), "choices": by_choice}


def _of_choice(text: str, path: Path, large: Sequence[Example]) -> dict[str, Any]:
    small, scale = large[: SAMPLES[0]], ROWS / len(large)
    plain = _plain(path, small, large) * scale
    options = {"model": str(path), "layers": text, "token_batch_size": TOKENS, "sketch_space": "raw"}
    config = Config.build({**OPTIONS, **options, "quiet": True})
    model = load_model(config)

    def fit(sample: Sequence[Example]) -> None:
        fit_curvature(model, sample, np.arange(len(sample), dtype=np.uint64), config, Progress(quiet=True))

    short, long = (_seconds(lambda rows=rows: fit(rows)) for rows in (small, large))  # type: ignore[misc]
    a_row = (long - short) / (len(large) - len(small))
    generator = torch.Generator().manual_seed(0)
    seeds = [_factors(layer.out_features, layer.width, generator) for layer in model.layers]
    rows = make_influence_pass(model, seeds, config, Progress(quiet=True))
    del seeds
    rows.compute(small)
    sweep = _seconds(lambda: rows.compute(large)) * scale
    fit_all = short + a_row * (ROWS - len(small))
    return {
        "layers": len(model.layers),
        "plain": round(plain, 1),
        "fit": round(fit_all, 1),
        "of it eigenvectors": round(short - a_row * len(small), 1),
        "sweep": round(sweep, 1),
        "fit of plain": round(fit_all / plain, 3),
        "sweep of plain": round(sweep / plain, 3),
    }


def _plain(path: Path, small: Sequence[Example], large: Sequence[Example]) -> float:
    """Seconds of a plain pass over the larger sample."""
    module = trainable(AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32))
    plain_pass(module, rectangles(small, TOKENS))
    return _seconds(lambda: plain_pass(module, rectangles(large, TOKENS)))


def _factors(outputs: int, width: int, generator: torch.Generator) -> SeedFactors:
    u, v = (torch.randn(n, SEEDS * COLUMNS, generator=generator) for n in (outputs, width))
    return SeedFactors(u, v, torch.arange(SEEDS + 1) * COLUMNS, np.full(SEEDS, 0.99))


def _examples(path: Path, data: Path) -> list[Example]:
    with tempfile.TemporaryDirectory() as folder:
        pool, _ = write_inputs(data, Path(folder), SAMPLES[1], 1)
        lines = pool.read_text(encoding="utf-8").splitlines()
    return encode([Row(**json.loads(line)) for line in lines], load_tokenizer(path), 10**6)


def _seconds(work: Any) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun
