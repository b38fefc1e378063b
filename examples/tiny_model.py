"""A tokenizer and a tiny Llama, made on the spot: what the demo has in place of a checkpoint."""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from gdig.config.options import DataOptions
from gdig.data.corpus import open_corpus
from gdig.data.prompts import plain_prompt
from gdig.data.row_formats import make_reader
from gdig.data.tokens import Encoder, Example

WINDOW = 192


def make_model(
    rows: Path, out: Path, *, steps: int = 300, batch_size: int = 48, learning_rate: float = 3e-3, random_seed: int = 0
) -> None:
    """Train a tokenizer and a model on a file of instructions, and save both in `out`.

    `out` appears when everything is in it. The examples are made by gdig itself, so that the model knows the very form
    in which the sweep will show it the rows.
    """
    torch.manual_seed(random_seed)
    disable_progress_bar()
    corpus = open_corpus([rows])
    read = make_reader("instruction")
    tokenizer = make_tokenizer([plain_prompt(read(row)).text for row in corpus.rows(0, len(corpus))])
    encoder = Encoder(DataOptions(), "instruction", tokenizer, WINDOW)
    examples = [e for e in encoder.encode(corpus, range(len(corpus))) if isinstance(e, Example)]
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=WINDOW,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    _train(model, examples, steps, batch_size, learning_rate, random.Random(random_seed))
    unfinished = out.with_name(out.name + ".tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    unfinished.replace(out)


def make_tokenizer(texts: list[str], vocab_size: int = 640) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer on texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<pad>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


def _train(
    model: LlamaForCausalLM,
    examples: list[Example],
    steps: int,
    batch_size: int,
    learning_rate: float,
    rng: random.Random,
) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    start, unused = time.monotonic(), []
    for step in range(1, steps + 1):
        if len(unused) < batch_size:
            unused = rng.sample(examples, len(examples))
        ids, labels = _batch([unused.pop() for _ in range(batch_size)])
        logits = model(input_ids=ids).logits[:, :-1]
        loss = F.cross_entropy(logits.transpose(1, 2), labels[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"  step {step}/{steps}, loss {loss.item():.2f}, {time.monotonic() - start:.0f} s", flush=True)
    model.eval()


def _batch(examples: list[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and labels, [B, T]; padded on the right, where a causal model needs no mask."""
    ids, labels = (
        torch.nn.utils.rnn.pad_sequence(
            [torch.from_numpy(getattr(e, name)).long() for e in examples], batch_first=True, padding_value=padding
        )
        for name, padding in (("input_ids", 0), ("labels", -100))
    )
    return ids, labels
