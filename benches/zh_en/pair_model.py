"""A tokenizer and a small Llama, trained from nothing on real pairs: what the bench has in place of a checkpoint."""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from examples.tiny_model import make_tokenizer
from gdig.config.options import DataOptions
from gdig.data.corpus import open_corpus
from gdig.data.prompts import plain_prompt
from gdig.data.row_formats import make_reader
from gdig.data.tokens import Encoder, Example
from gdig.model.batches import Batch, make_batches

WINDOW = 384


@dataclass(frozen=True)
class Recipe:
    """How the model is made. token_batch_size: tokens in a step, pads included.

    schedule: of the learning rate. cycle: up and down to nothing over all epochs. warm: up over 100 steps, then as
    1 / sqrt(step), which does not know how long it will last, so that one run has checkpoints of many lengths.
    steps: train so many steps, counted as one epoch, whatever `epochs` says.
    """

    vocab_size: int = 8192
    hidden_size: int = 256
    intermediate_size: int = 512
    layers: int = 4
    heads: int = 4
    epochs: int = 4
    learning_rate: float = 2e-3
    token_batch_size: int = 4096
    random_seed: int = 0
    schedule: Literal["cycle", "warm"] = "cycle"
    steps: int | None = None


def train_model(rows: Path, out: Path, recipe: Recipe) -> dict[str, float]:
    """Train tokenizer and model on a JSONL file of pairs as it is, save both in `out`.

    The examples are made by gdig itself, so that the model knows the very form in which the sweep will show it the
    rows. Returns facts: parameters, tokens, seconds, loss (the last epoch's mean, nats a token).
    """
    disable_progress_bar()
    tokenizer = train_tokenizer(rows, recipe.vocab_size)
    examples = encode(rows, tokenizer)
    model = new_model(tokenizer, recipe)
    start = time.monotonic()
    loss = train(model, examples, recipe)
    seconds = time.monotonic() - start
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens": sum(len(e) for e in examples),
        "seconds": seconds,
        "loss": loss,
    }


def train_tokenizer(rows: Path, vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a tokenizer on a JSONL file of pairs, prompts included."""
    corpus, read = open_corpus([rows]), make_reader("translation")
    return make_tokenizer([plain_prompt(read(row)).text for row in corpus.rows(0, len(corpus))], vocab_size)


def encode(rows: Path, tokenizer: PreTrainedTokenizerFast) -> list[Example]:
    """Make the examples of a JSONL file of pairs, those left out that have no target."""
    corpus, encoder = open_corpus([rows]), Encoder(DataOptions(), "translation", tokenizer, WINDOW)
    return [e for e in encoder.encode(corpus, range(len(corpus))) if isinstance(e, Example)]


def new_model(tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> LlamaForCausalLM:
    """A model that has learned nothing."""
    torch.manual_seed(recipe.random_seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=recipe.hidden_size,
            intermediate_size=recipe.intermediate_size,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            max_position_embeddings=WINDOW,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def train(
    model: LlamaForCausalLM,
    examples: list[Example],
    recipe: Recipe,
    after_epoch: Callable[[int], None] | None = None,
) -> float:
    """AdamW on every token of the text, prompt included. Calls after_epoch(epochs done); returns the last one's mean
    loss, nats a token."""
    rng = random.Random(recipe.random_seed)
    if recipe.steps is None:
        epochs = [_batches(examples, recipe.token_batch_size, rng) for _ in range(recipe.epochs)]
    else:
        endless = (batch for _ in itertools.count() for batch in _batches(examples, recipe.token_batch_size, rng))
        epochs = [list(itertools.islice(endless, recipe.steps))]
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.1)
    schedule: torch.optim.lr_scheduler.LRScheduler
    if recipe.schedule == "cycle":
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, recipe.learning_rate, total_steps=sum(map(len, epochs)), pct_start=0.1
        )
    else:
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _warm)
    start, mean = time.monotonic(), float("nan")
    for epoch, batches in enumerate(epochs, 1):
        losses = []
        model.train()
        for batch in batches:
            loss = _loss(model, batch)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        mean = sum(losses) / len(losses)
        seconds = time.monotonic() - start
        print(f"  epoch {epoch}/{len(epochs)}, loss {mean:.3f} a token, {seconds:.0f} s", flush=True)
        model.eval()
        if after_epoch is not None:
            after_epoch(epoch)
    return mean


def _warm(step: int, rise: int = 100) -> float:
    return min((step + 1) / rise, math.sqrt(rise / (step + 1)))


@torch.no_grad()
def target_loss(model: LlamaForCausalLM, examples: list[Example]) -> float:
    """Mean loss of the examples' target tokens, nats a token."""
    total = count = 0.0
    for batch in make_batches(examples, 4096):
        positions, labels, _ = batch.targets
        hidden = model.model(input_ids=torch.from_numpy(batch.input_ids).long(), use_cache=False).last_hidden_state
        logits = model.lm_head(hidden.flatten(0, 1)[torch.from_numpy(positions)])
        total += float(F.cross_entropy(logits, torch.from_numpy(labels), reduction="sum"))
        count += len(labels)
    return total / count


def _batches(examples: list[Example], token_batch_size: int, rng: random.Random) -> list[Batch]:
    """Random groups of 256 examples, each sorted by length into rectangles; all rectangles in random order."""
    order = rng.sample(examples, len(examples))
    batches = [batch for i in range(0, len(order), 256) for batch in make_batches(order[i : i + 256], token_batch_size)]
    rng.shuffle(batches)
    return batches


def _loss(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    ids = torch.from_numpy(batch.input_ids).long()
    real = batch.token_mask.bool().view(batch.shape)[:, 1:]
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    return F.cross_entropy(model.lm_head(hidden[real]), ids[:, 1:][real])
