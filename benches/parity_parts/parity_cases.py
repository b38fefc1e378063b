"""What the scores are compared on: tiny checkpoints on disk, rows of tokens, and the cases."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from gdig.data.tokens import IGNORED, Example
from gdig.model.choice import choose_layers
from gdig.model.load_trial import try_model
from tests.support.tiny_models import without_float32_norms

VOCAB = 64

MODELS = ("llama", "gpt2")
"""A model whose linears have no bias and whose gate and up read one input, and one of Conv1D layers with biases."""


@dataclass(frozen=True)
class Case:
    """One way to score. Options are named as gdig's; labels are the data's own on every side."""

    inversion: str
    damping_mode: str = "relative"
    damping_factor: float = 0.1
    loss_reduction: str = "mean"

    @property
    def name(self) -> str:
        damping = "" if self.inversion == "identity" else f", {self.damping_mode} {self.damping_factor:g}"
        return f"{self.inversion}{damping}, {self.loss_reduction}"


CASES = (
    Case("identity"),
    Case("kfac"),
    # Absolute dampings near a tenth of the mean eigenvalue of the layers here (1e-3 to 1e-2), where they matter.
    Case("kfac", "absolute", 3e-4),
    Case("kfac", "factored_tikhonov", 3e-4),
    Case("ekfac"),
    Case("ekfac", "absolute", 3e-4),
    Case("identity", loss_reduction="sum"),
    Case("kfac", loss_reduction="sum"),
    Case("ekfac", loss_reduction="sum"),
)


@dataclass(frozen=True)
class Project:
    """A checkpoint with its pool, on which the curvature is fitted too, and its seeds; in memory and as files."""

    kind: str
    folder: Path
    pool: list[Example]
    seeds: list[Example]
    layers: tuple[str, ...]

    @property
    def checkpoint(self) -> Path:
        return self.folder / "model"

    @property
    def tokens_per_example(self) -> float:
        """Of the pool: every position counts."""
        return sum(len(example) for example in self.pool) / len(self.pool)

    def module(self, dtype: torch.dtype = torch.float32) -> Any:
        """The checkpoint, read from its files. In float64 without the rounding to float32 in Llama's norms."""
        module = AutoModelForCausalLM.from_pretrained(self.checkpoint, dtype=torch.float32).eval()
        return module if dtype == torch.float32 else without_float32_norms(module).to(dtype)


def make_project(folder: Path, kind: str, rows: int, seeds: int) -> Project:
    """Write a checkpoint, `rows` of a pool and `seeds` into a folder that exists."""
    module = make_module(kind)
    module.save_pretrained(folder / "model")
    trial = try_model(module, module.base_model, module.lm_head)
    layers = tuple(layer.name for layer in choose_layers(module, trial, head=module.lm_head))
    project = Project(kind, folder, make_examples(rows, 1), make_examples(seeds, 2), layers)
    for name, examples in (("pool", project.pool), ("seeds", project.seeds)):
        lines = [json.dumps({"input_ids": e.input_ids.tolist(), "labels": e.labels.tolist()}) for e in examples]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return project


def make_module(kind: str, random_seed: int = 0) -> Any:
    """A tiny model whose weights numpy draws, each by its name, so that they are the same with every torch."""
    if kind == "llama":
        module: Any = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=VOCAB, hidden_size=16, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2,
                num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=False, bos_token_id=None,
                eos_token_id=1, pad_token_id=0,
            )
        )  # fmt: skip
    else:
        module = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=VOCAB, n_embd=16, n_inner=40, n_layer=2, n_head=2, n_positions=64, bos_token_id=1,
                eos_token_id=1,
            )
        )  # fmt: skip
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            draw = np.random.default_rng([random_seed, zlib.crc32(name.encode())]).standard_normal(parameter.shape)
            scale, about = (0.25, 0.0) if parameter.ndim == 2 else (0.1, float(not name.endswith("bias")))
            parameter.copy_(torch.from_numpy(about + scale * draw))
    return module.eval()


def make_examples(n: int, random_seed: int, shortest: int = 4, longest: int = 24) -> list[Example]:
    """`n` examples of random tokens and mixed lengths; a third of each is prompt, which has no loss."""
    rng = np.random.default_rng(random_seed)
    examples = []
    for length in rng.integers(shortest, longest + 1, n):
        ids = rng.integers(2, VOCAB, length).astype(np.int32)
        labels = ids.copy()
        labels[: max(1, length // 3)] = IGNORED
        examples.append(Example(ids, labels))
    return examples


def extended(examples: Sequence[Example]) -> list[Example]:
    """Each example with one token more that has no loss. In a causal model nothing before it changes."""
    return [
        Example(np.append(e.input_ids, np.int32(0)), np.append(e.labels, np.int32(IGNORED))) for e in examples
    ]  # fmt: skip
