"""Tiny models with random weights, and examples for them: seconds on a CPU, real architectures."""

from __future__ import annotations

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from gdig.config.config import Config
from gdig.data.tokens import Example
from gdig.model.causal_model import Model, wrap_model

VOCAB = 48


def llama(bias: bool = False, tied: bool = False, random_seed: int = 0, blocks: int = 2, **options) -> torch.nn.Module:
    torch.manual_seed(random_seed)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=16, intermediate_size=24, num_hidden_layers=blocks, num_attention_heads=2,
        max_position_embeddings=64, mlp_bias=bias, tie_word_embeddings=tied, initializer_range=0.2,
        **{"num_key_value_heads": 1, **options},
    )  # fmt: skip
    return LlamaForCausalLM(config)


def gpt2(random_seed: int = 0, blocks: int = 2) -> torch.nn.Module:
    torch.manual_seed(random_seed)
    config = GPT2Config(
        vocab_size=VOCAB, n_embd=16, n_layer=blocks, n_head=2, n_positions=64, initializer_range=0.2,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


MODELS = {
    "llama": llama,
    "llama-bias": lambda: llama(bias=True),
    "llama-tied": lambda: llama(tied=True),
    "gpt2": gpt2,
}


def make_examples(n: int, random_seed: int = 0, shortest: int = 3, longest: int = 20) -> list[Example]:
    """Random tokens of mixed lengths; about the first third of each is prompt (no loss)."""
    rng = np.random.default_rng(random_seed)
    examples = []
    for length in rng.integers(shortest, longest + 1, n):
        ids = rng.integers(0, VOCAB, length).astype(np.int32)
        labels = ids.copy()
        labels[: max(1, length // 3)] = -100
        examples.append(Example(ids, labels))
    return examples


def wrapped(module: torch.nn.Module, dtype: torch.dtype = torch.float64, **options) -> tuple[Model, Config]:
    """A model as the stages see it, with the configuration that goes with it."""
    config = Config.build({"device": "cpu", **options})
    return wrap_model(without_float32_norms(module).to(dtype), config), config


def without_float32_norms(module: torch.nn.Module) -> torch.nn.Module:
    """Llama's norm rounds to float32 whatever the model's dtype, which no float64 oracle could see past."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, LlamaRMSNorm):
                norm = torch.nn.RMSNorm(child.weight.shape[0], child.variance_epsilon)
                norm.weight = child.weight
                setattr(parent, name, norm)
    return module
