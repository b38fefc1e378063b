"""A tokenizer and a small Llama, trained from nothing on real pairs: what the bench has in place of a checkpoint."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from gdig.data.corpus import open_corpus
from gdig.data.prompts import TemplatePrompter
from gdig.data.tokens import Encoder, Example
from gdig.model.batches import Batch, make_batches
from gdig.options import DataOptions

WINDOW = 384


@dataclass(frozen=True)
class Recipe:
    """How the model is made. token_batch_size: tokens in a step, pads included."""

    vocab_size: int = 8192
    hidden_size: int = 256
    intermediate_size: int = 512
    layers: int = 4
    heads: int = 4
    epochs: int = 4
    learning_rate: float = 2e-3
    token_batch_size: int = 4096
    seed: int = 0


def train_model(rows: Path, out: Path, recipe: Recipe) -> dict[str, float]:
    """Train tokenizer and model on a JSONL file of pairs as it is, save both in `out`.

    The examples are made by gdig itself, so that the model knows the very form in which the sweep will show it the
    rows. Returns facts: parameters, tokens, seconds, loss (the last epoch's mean, nats a token).
    """
    disable_progress_bar()
    torch.manual_seed(recipe.seed)
    corpus = open_corpus([rows])
    prompter = TemplatePrompter("translation")
    tokenizer = _tokenizer([prompter(row).text for row in corpus.rows(0, len(corpus))], recipe.vocab_size)
    encoder = Encoder(DataOptions(), "translation", tokenizer, WINDOW)
    examples = [e for e in encoder.encode(corpus, range(len(corpus))) if isinstance(e, Example)]
    model = LlamaForCausalLM(
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
    start = time.monotonic()
    loss = _train(model, examples, recipe)
    seconds = time.monotonic() - start
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens": sum(len(e) for e in examples),
        "seconds": seconds,
        "loss": loss,
    }


def _tokenizer(texts: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer."""
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


def _train(model: LlamaForCausalLM, examples: list[Example], recipe: Recipe) -> float:
    """AdamW on every token of the text, prompt included; one cycle of the learning rate."""
    rng = random.Random(recipe.seed)
    epochs = [_batches(examples, recipe.token_batch_size, rng) for _ in range(recipe.epochs)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=sum(map(len, epochs)), pct_start=0.1
    )
    model.train()
    start, mean = time.monotonic(), float("nan")
    for epoch, batches in enumerate(epochs, 1):
        losses = []
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
    return mean


def _batches(examples: list[Example], token_batch_size: int, rng: random.Random) -> list[Batch]:
    """Random groups of 256 examples, each sorted by length into rectangles; all rectangles in random order."""
    order = rng.sample(examples, len(examples))
    batches = [batch for i in range(0, len(order), 256) for batch in make_batches(order[i : i + 256], token_batch_size)]
    rng.shuffle(batches)
    return batches


def _loss(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    ids = torch.from_numpy(batch.input_ids).long()
    real = batch.keep.bool().view(batch.shape)[:, 1:]
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    return F.cross_entropy(model.lm_head(hidden[real]), ids[:, 1:][real])
