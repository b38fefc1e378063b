"""What the sweep's bench runs over: a Llama of random weights, and examples as long as real translation pairs are."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from gdig.data.prompts import plain_prompt
from gdig.data.row_formats import make_reader
from gdig.data.tokens import IGNORED, Example

WINDOW = 1024

# Han characters with their punctuation. A vocabulary of 32k and more has about 1.5 of them in a token, and 4 letters.
_HAN = re.compile(r"[\u3000-\u9fff\uff00-\uffef]")
_HAN_PER_TOKEN, _LETTERS_PER_TOKEN = 1.5, 4.0

# Mean and standard deviation of the logarithms of the prompts' and the targets' lengths in 4,000 pairs of the web, and
# the correlation of the two.
_PROMPT, _TARGET, _CORRELATION = (4.035, 0.221), (3.875, 0.337), 0.898


@dataclass(frozen=True)
class Size:
    """A model and how much of it a round takes.

    examples: of the pool; token_batch_size: of our own rectangles; seeds: of the scores on all MLP layers.
    """

    name: str
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    vocab_size: int
    examples: int
    token_batch_size: int
    seeds: int = 32

    @property
    def dimensions(self) -> set[int]:
        """Numbers that tell the model's matrices apart."""
        return {self.hidden_size, self.intermediate_size, self.vocab_size, self.hidden_size // self.heads}

    def module(self, random_seed: int = 0) -> LlamaForCausalLM:
        """The model in float32 on the CPU; every call with the same random seed gives the same weights."""
        torch.manual_seed(random_seed)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=self.vocab_size,
                hidden_size=self.hidden_size,
                intermediate_size=self.intermediate_size,
                num_hidden_layers=self.layers,
                num_attention_heads=self.heads,
                max_position_embeddings=WINDOW,
                tie_word_embeddings=True,
                bos_token_id=None,
                eos_token_id=1,
                pad_token_id=0,
            )
        )


SIZES = {
    size.name: size
    for size in (
        Size("quick", 64, 128, 2, 2, 512, 48, 1024, 4),
        Size("tiny", 128, 384, 2, 2, 4096, 256, 8192),
        Size("small", 256, 688, 4, 4, 4096, 128, 4096),
        # Rectangles of 2,048 tokens, so that few examples make several, as a shard of a pool does.
        Size("100m", 768, 2048, 12, 12, 32_000, 32, 2048),
    )
}


def read_lengths(path: Path) -> np.ndarray:
    """Tokens of prompt and target of each pair in a JSON file of them, int64 [N, 2], estimated from the characters."""
    read = make_reader("translation")
    lengths = []
    for pair in json.loads(path.read_text(encoding="utf-8")):
        row = plain_prompt(read(pair))
        start = row.targets[0][0]
        lengths.append((_tokens(row.text[:start]), _tokens(row.text[start:])))
    return np.array(lengths)


def make_lengths(n: int, random_seed: int = 0) -> np.ndarray:
    """Lengths like those of real pairs, long-tailed, where no file of them is at hand: int64 [n, 2]."""
    shared = np.array([[1.0, _CORRELATION], [_CORRELATION, 1.0]])
    normal = np.random.default_rng(random_seed).multivariate_normal([0.0, 0.0], shared, n)
    scaled = np.exp(normal * [_PROMPT[1], _TARGET[1]] + [_PROMPT[0], _TARGET[0]])
    return scaled.round().astype(int).clip(min=2)


def make_examples(lengths: np.ndarray, n: int, vocab_size: int, random_seed: int = 0) -> list[Example]:
    """`n` examples of random tokens, as long as `n` of `lengths` [N, 2] drawn without replacement; prompts masked."""
    rng = np.random.default_rng(random_seed)
    examples = []
    for prompt, target in lengths[rng.choice(len(lengths), n, replace=n > len(lengths))]:
        ids = rng.integers(2, vocab_size, min(prompt + target, WINDOW)).astype(np.int32)
        labels = ids.copy()
        labels[: min(prompt, len(ids) - 1)] = IGNORED
        examples.append(Example(ids, labels))
    return examples


def _tokens(text: str) -> int:
    han = len(_HAN.findall(text))
    return max(1, round(han / _HAN_PER_TOKEN + (len(text) - han) / _LETTERS_PER_TOKEN))
