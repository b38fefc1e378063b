"""Fit and sweep on the device beside float64 on the CPU, and beside themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from gdig.config.config import Config
from gdig.influence.curvature import fit_curvature
from gdig.influence.precondition_seeds import precondition_seeds
from gdig.model.causal_model import wrap_model
from gdig.passes.influence_pass import make_influence_pass
from gdig.progress import Progress
from tests.support.tiny_models import make_examples, without_float32_norms

QUIET = Progress(quiet=True)
FLOAT32 = 1e-4
"""Of the largest number: sums of some thousand terms in another order, through a damped inverse (as in
tests/test_triton_sweep.py)."""
NAMES = ("scores", "sketches", "losses")


def compare_with_float64(device: torch.device, *, quick: bool = False) -> dict[str, Any]:
    """Fit EK-FAC and sweep a small Llama in float32 and bfloat16 on the device, and in float64 on the CPU.

    Returns:
        By dtype and result, the largest difference over the largest number, the correlation, whether two runs on the
        device gave the same bytes, and for float32 whether the bound holds.
    """
    sizes = (
        dict(hidden=32, inner=64, blocks=2, vocab=48) if quick else dict(hidden=256, inner=768, blocks=4, vocab=4096)
    )
    rows = (8, 3, 6) if quick else (64, 16, 64)
    figures: dict[str, Any] = {}
    for dtype in (torch.float32,) if device.type == "cpu" else (torch.float32, torch.bfloat16):
        module = _module(sizes).to(dtype)
        want = _results(module.double(), torch.device("cpu"), sizes["vocab"], rows)
        first, second = (_results(_module(sizes).to(dtype), device, sizes["vocab"], rows) for _ in range(2))
        for name, exact, own, again in zip(NAMES, want, first, second, strict=True):
            error = float(np.abs(own - exact).max() / np.abs(exact).max())
            facts = {
                "error": error,
                "correlation": float(np.corrcoef(own.ravel(), exact.ravel())[0, 1]),
                "same_bytes": own.tobytes() == again.tobytes(),
                "holds": error <= FLOAT32 if dtype == torch.float32 else None,
            }
            figures[f"{str(dtype).removeprefix('torch.')} {name}"] = facts
            print(f"{str(dtype)[6:]} {name}: {facts}", flush=True)
    return figures


def _module(sizes: dict[str, int]) -> torch.nn.Module:
    """The same weights at every call, which bfloat16 has too: so its results differ by its arithmetic alone."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=sizes["vocab"], hidden_size=sizes["hidden"], intermediate_size=sizes["inner"],
        num_hidden_layers=sizes["blocks"], num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
        tie_word_embeddings=True, initializer_range=0.1,
    )  # fmt: skip
    return without_float32_norms(LlamaForCausalLM(config).bfloat16())


def _results(
    module: torch.nn.Module, device: torch.device, vocab: int, rows: tuple[int, int, int]
) -> tuple[np.ndarray, ...]:
    """Scores, sketches and losses of a pool, after a fit with the labels of the data: none is drawn, because a draw
    can fall on another word in another arithmetic."""
    options = {"projection_dim": 64, "projection_side": 8, "use_empirical_fisher": True, "token_batch_size": 512}
    config = Config.build({"device": str(device), "layers": "all", "quiet": True, **options})
    model = wrap_model(module.to(device), config)
    sample, seeds, pool = (_drawn(n, number, vocab) for number, n in enumerate(rows))
    factors, _ = fit_curvature(model, sample, np.arange(len(sample), dtype=np.uint64), config, QUIET)
    joined, _ = precondition_seeds(model, factors, seeds, [], config, QUIET)
    numbers = make_influence_pass(model, joined, config, QUIET, dense_bytes=0).compute(pool)
    return tuple(np.asarray(x, np.float64) for x in numbers[: len(NAMES)])


def _drawn(n: int, random_seed: int, vocab: int) -> Any:
    return make_examples(n, random_seed, 8, min(vocab // 2, 120))
