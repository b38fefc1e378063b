"""Many Llamas of one shape, trained side by side with stacked weights, because a small model alone leaves a core idle.

Weights are those of transformers' LlamaForCausalLM by the same names, with a leading axis [M] of models (tests compare
the logits). The module covers the benches' models alone: as many key heads as heads, tied embeddings, no dropout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from gdig.data.tokens import IGNORED, Example

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Tokens:
    """Rows as tensors: ids [N, T] int64, padded with 0; weights [N, T - 1], of each position in its row's mean loss."""

    ids: torch.Tensor
    weights: torch.Tensor
    lengths: np.ndarray

    @classmethod
    def of(cls, examples: Sequence[Example]) -> Tokens:
        """Pad examples to the longest."""
        lengths = np.array([len(example) for example in examples])
        ids = torch.zeros(len(examples), int(lengths.max()), dtype=torch.long)
        weights = torch.zeros(len(examples), ids.shape[1] - 1)
        for i, example in enumerate(examples):
            ids[i, : len(example)] = torch.from_numpy(example.input_ids)
            weights[i, : len(example) - 1] = torch.from_numpy(example.labels[1:] != IGNORED) / example.n_target
        return cls(ids, weights, lengths)

    def take(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids [..., T] and weights [..., T - 1] of rows [...], as long as the longest of them."""
        longest, index = int(self.lengths[rows].max()), torch.from_numpy(rows)
        return self.ids[index, :longest], self.weights[index, : longest - 1]


@dataclass(frozen=True)
class Recipe:
    """How models are trained. Learning rate: up over a tenth of the steps, then down to nothing in a straight line."""

    learning_rate: float
    batch_size: int = 32
    weight_decay: float = 0.01


def stack(model: LlamaForCausalLM, copies: int) -> Weights:
    """A model's weights, `copies` times."""
    return {name: p.detach().float().expand(copies, *p.shape).clone() for name, p in model.named_parameters()}


def unstack(weights: Weights, index: int, config: LlamaConfig) -> LlamaForCausalLM:
    """One of the stacked models."""
    model = LlamaForCausalLM(config)
    model.load_state_dict({name: w[index] for name, w in weights.items()}, strict=False)  # the tied head is no weight
    return model.eval()


def logits(config: LlamaConfig, weights: Weights, ids: torch.Tensor, picked: torch.Tensor) -> torch.Tensor:
    """Logits [M, P, V] of ids [M, B, T] at positions picked [M, P], which count through a model's B (T - 1).

    The last position of a row, which predicts nothing, has no number.
    """
    m, b, t = ids.shape
    width, heads = config.hidden_size, config.num_attention_heads
    embedding = weights["model.embed_tokens.weight"]
    offsets = torch.arange(m)[:, None, None] * len(embedding[0])
    x = F.embedding(ids[..., :-1] + offsets, embedding.flatten(0, 1)).flatten(1, 2)  # [M, B (T - 1), H]
    t -= 1
    rotation = _rotation(t, width // heads)
    for i in range(config.num_hidden_layers):
        layer = f"model.layers.{i}"
        h = _norm(x, weights[f"{layer}.input_layernorm.weight"], config.rms_norm_eps)
        q, k, v = (
            _linear(h, weights[f"{layer}.self_attn.{side}_proj.weight"]).view(m * b, t, heads, -1).transpose(1, 2)
            for side in "qkv"
        )
        mixed = F.scaled_dot_product_attention(_rotate(q, rotation), _rotate(k, rotation), v, is_causal=True)
        x = x + _linear(mixed.transpose(1, 2).reshape(m, b * t, width), weights[f"{layer}.self_attn.o_proj.weight"])
        h = _norm(x, weights[f"{layer}.post_attention_layernorm.weight"], config.rms_norm_eps)
        gate, up = (_linear(h, weights[f"{layer}.mlp.{side}_proj.weight"]) for side in ("gate", "up"))
        x = x + _linear(F.silu(gate) * up, weights[f"{layer}.mlp.down_proj.weight"])
    x = x.gather(1, picked[..., None].expand(-1, -1, width))
    return _linear(_norm(x, weights["model.norm.weight"], config.rms_norm_eps), embedding)


def train(
    config: LlamaConfig,
    start: Weights,
    data: Tokens,
    batches: np.ndarray,
    recipe: Recipe,
    after: Callable[[int, Weights, torch.optim.AdamW], None] | None = None,
) -> Weights:
    """AdamW over batches [M, steps, B], rows of `data` for each model, from the stacked weights `start`.

    after: called after each step with the steps done, the weights and their optimizer.

    Each model has its own rows, learning rates, gradients and moments. Except for rounding, a model does not depend on
    the models beside it.
    """
    weights = {name: w.clone().requires_grad_() for name, w in start.items()}
    optimizer = torch.optim.AdamW(
        weights.values(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=recipe.weight_decay
    )
    steps = batches.shape[1]
    rise = max(1, steps // 10)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * min((step + 1) / rise, (steps - step) / max(1, steps - rise))
        loss, _ = _losses(config, weights, *data.take(batches[:, step]))
        optimizer.zero_grad()
        (loss.sum() / batches.shape[2]).backward()
        _clip(weights, 1.0)
        optimizer.step()
        if after is not None:
            after(step + 1, weights, optimizer)
    return {name: w.detach() for name, w in weights.items()}


@torch.no_grad()
def evaluate(
    config: LlamaConfig, weights: Weights, data: Tokens, batch_size: int = 100
) -> tuple[np.ndarray, np.ndarray]:
    """Loss [M, N] of every row under every model, and whether each finds it word by word, bool [M, N].

    A model that is right at every position of a row, shown what comes before, writes the same row when left alone.
    """
    m = len(next(iter(weights.values())))
    batches = []
    for i in range(0, len(data.ids), batch_size):
        rows = np.arange(i, min(i + batch_size, len(data.ids)))
        batches.append(_losses(config, weights, *data.take(np.broadcast_to(rows, (m, len(rows))).copy())))
    losses, right = (torch.cat(tensors, 1).numpy() for tensors in zip(*batches, strict=True))
    return losses, right


def shuffled(rows: Sequence[np.ndarray], epochs: float, batch_size: int, random_seeds: Sequence[int]) -> np.ndarray:
    """Batches [M, steps, B]: each model passes over its own rows repeatedly, in a new order each time."""
    steps = round(epochs * len(rows[0]) / batch_size)
    return np.stack([
        order_of(own, steps * batch_size, random_seed).reshape(steps, batch_size)
        for own, random_seed in zip(rows, random_seeds, strict=True)
    ])  # fmt: skip


def order_of(rows: np.ndarray, length: int, random_seed: int) -> np.ndarray:
    """The rows repeated, in a new random order each time, cut to `length`."""
    rng = np.random.default_rng(random_seed)
    return np.concatenate([rng.permutation(rows) for _ in range(-(-length // len(rows)))])[:length]


def _losses(
    config: LlamaConfig, weights: Weights, ids: torch.Tensor, shares: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean loss of each row over its targets [M, B], and whether all of them are the likeliest, bool [M, B]."""
    m, b, t = ids.shape
    shares = shares.flatten(1)
    most = int((shares > 0).sum(1).max())
    picked = (shares > 0).to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
    labels, shares = ids[..., 1:].flatten(1).gather(1, picked), shares.gather(1, picked)
    scores = logits(config, weights, ids, picked)
    nll = F.cross_entropy(scores.flatten(0, 1), labels.flatten(), reduction="none").view(m, most) * shares
    row = picked // (t - 1)
    wrong = (scores.detach().argmax(-1) != labels) & (shares > 0)
    return (
        torch.zeros(m, b).scatter_add(1, row, nll),
        torch.zeros(m, b).scatter_add(1, row, wrong.float()) == 0,
    )


def _clip(weights: Weights, most: float) -> None:
    """Scale each model's gradient to a norm of `most`, if the gradient is longer."""
    gradients = [w.grad for w in weights.values() if w.grad is not None]
    norm = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0).sqrt()
    scale = (most / norm.clamp(min=most)).double()
    for g in gradients:
        g *= scale.to(g.dtype).view(-1, *[1] * (g.dim() - 1))


def _linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return torch.bmm(x, weight.transpose(1, 2))


def _norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return F.rms_norm(x, x.shape[-1:], eps=eps) * weight[:, None]


def _rotation(length: int, width: int, theta: float = 10_000.0) -> tuple[torch.Tensor, torch.Tensor]:
    frequencies = theta ** -(torch.arange(0, width, 2) / width)
    angles = (torch.arange(length)[:, None] * frequencies).repeat(1, 2)
    return angles.cos(), angles.sin()


def _rotate(x: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return x * rotation[0] + torch.cat((-second, first), -1) * rotation[1]
