"""What one pass tells of each row of a collection: influence on every seed, sketch, loss, hidden state, words.

A collection has every row of several pools once, so one pass serves all of them. Influence is exact: whole gradients in
the eigenbasis of the curvature, as `benches.zh_en.exact` has it, one block of the model at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benches.pretrained.pretrained_model import upper_model
from benches.pretrained.rows import Row
from benches.shared.gradients import each_layer
from gdig.config.config import Config
from gdig.data.tokens import Example
from gdig.influence.curvature import fit_curvature
from gdig.influence.factors import Factors
from gdig.influence.inverse import damped_eigenvalues
from gdig.model.batches import Batch, make_batches
from gdig.model.capture import GradientPass
from gdig.model.causal_model import Model, wrap_model
from gdig.passes.sketch import Sketchers
from gdig.progress import Progress
from tests.support.bm25 import Bm25

TOKENS = 2048
DIM = 512
"""Length of a sketch."""
OPTIONS = {"model": "none", "candidates": ["none"], "seeds": ["none"], "run_path": "none"}
"""Places that no function here opens."""


def frozen(path: Path, states: np.ndarray, pattern: str, upper: int) -> tuple[Model, Config]:
    """The upper model as gdig's passes take it, with the layers that match the pattern."""
    config = Config.build({**OPTIONS, "filter_modules": pattern, "token_batch_size": TOKENS, "quiet": True})
    return wrap_model(upper_model(path, states, upper), config), config


def curvature(model: Model, config: Config, sample: Sequence[Example]) -> dict[str, np.ndarray]:
    """EK-FAC of each layer: arrays by layer's name and field."""
    factors, _ = fit_curvature(model, sample, np.arange(len(sample), dtype=np.uint64), config, Progress(quiet=True))
    arrays = {}
    for layer, f in zip(model.layers, factors, strict=True):
        for name in ("q_a", "q_s", "l_a", "l_s", "corrected"):
            arrays[f"{layer.name} {name}"] = getattr(f, name).numpy()
        arrays[f"{layer.name} counts"] = np.array([f.tokens, f.examples])
    return arrays


def read_factors(arrays: dict[str, np.ndarray], layer: str) -> Factors:
    """The curvature of a layer from `curvature`'s arrays."""
    q_a, q_s, l_a, l_s, corrected = (
        torch.from_numpy(arrays[f"{layer} {name}"]) for name in ("q_a", "q_s", "l_a", "l_s", "corrected")
    )
    tokens, examples = arrays[f"{layer} counts"].tolist()
    return Factors(q_a, q_s, l_a, l_s, corrected, tokens, examples, False)


INVERSES: dict[str, dict[str, Any]] = {
    "0.1": {"damping_factor": 0.1},
    "damping 0.01": {"damping_factor": 0.01},
    "damping 1": {"damping_factor": 1.0},
    "damping 10": {"damping_factor": 10.0},
    "K-FAC": {},
    "identity": {},
}
"""Inverses of the curvature, and their options: first EK-FAC's at gdig's damping."""
DEFAULT, *VARIANTS = INVERSES


def exact_influence(
    model: Model,
    config: Config,
    arrays: dict[str, np.ndarray],
    rows: Sequence[Example],
    seeds: Sequence[Example],
    inverses: Sequence[str] = (DEFAULT,),
) -> dict[str, np.ndarray]:
    """The model's layers' part of the influence: the arrays of `layer_influence`, added over the layers."""
    factors = [read_factors(arrays, layer.name) for layer in model.layers]
    by_layer = layer_influence(model, config, factors, rows, seeds, inverses)
    return {name: x if name.endswith("loss") else x.sum(0) for name, x in by_layer.items()}


@torch.no_grad()
def layer_influence(
    model: Model,
    config: Config,
    factors: Sequence[Factors],
    rows: Sequence[Example],
    seeds: Sequence[Example],
    inverses: Sequence[str] = (DEFAULT,),
) -> dict[str, np.ndarray]:
    """The part of each of the model's K layers in the influence, from whole gradients.

    The seeds' gradients of all layers are in memory: S * O * J numbers of float32 a layer.

    Returns:
        For each name of `inverses`: "influence NAME" float32 [K, N, S] and "square NAME" float64 [K, N], <G, H^-1 G>;
        "gram NAME" float32 [K, S, S] of the seeds. "loss" [N] and "seed loss" [S].
    """
    scales = {
        name: [_scale(name, f, config, layer.name) for f, layer in zip(factors, model.layers, strict=True)]
        for name in inverses
    }
    gradients = GradientPass(model, config.loss_reduction)
    n_layers, n_rows, n_seeds = len(factors), len(rows), len(seeds)
    turned_seeds = [torch.zeros(n_seeds, len(f.l_s) * len(f.l_a)) for f in factors]
    influence = {name: np.zeros((n_layers, n_rows, n_seeds), np.float32) for name in inverses}
    square = {name: np.zeros((n_layers, n_rows)) for name in inverses}

    def turned(index: int, a: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
        f = factors[index]
        return ((d @ f.q_s).mT @ (a @ f.q_a)).flatten(1)

    def keep(index: int, at: torch.Tensor, a: torch.Tensor, d: torch.Tensor) -> None:
        turned_seeds[index][at] = turned(index, a, d)

    def compare(index: int, at: torch.Tensor, a: torch.Tensor, d: torch.Tensor) -> None:
        g = turned(index, a, d)
        for name in inverses:
            scaled = g * scales[name][index]
            influence[name][index, at.numpy()] = (scaled @ turned_seeds[index].T).numpy()
            square[name][index, at.numpy()] = scaled.mul_(g).sum(1).double().numpy()

    out = {
        "seed loss": each_layer(gradients, seeds, keep, TOKENS),
        "loss": each_layer(gradients, rows, compare, TOKENS),
    }
    for name in inverses:
        gram = [((t * scale) @ t.T).numpy() for t, scale in zip(turned_seeds, scales[name], strict=True)]
        out |= {f"influence {name}": influence[name], f"square {name}": square[name], f"gram {name}": np.stack(gram)}
    return out


def _scale(name: str, factors: Factors, config: Config, layer: str) -> torch.Tensor:
    """What a gradient in the eigenbasis is multiplied with, [O J]."""
    if name == "identity":
        return torch.ones(len(factors.l_s) * len(factors.l_a))
    own = replace(factors, corrected=None) if name == "K-FAC" else factors
    damped = damped_eigenvalues(own, config.with_options(**INVERSES[name]), layer)
    assert damped is not None  # a layer of a trained model has gradients
    return (1 / damped).float().flatten()


@torch.no_grad()
def sketches(model: Model, config: Config, examples: Sequence[Example]) -> dict[str, np.ndarray]:
    """Raw sketches [n, DIM] of the layers' gradients, and position-weighted last hidden states [n, H] (RDS+)."""
    width = model.module.config.get_text_config().hidden_size
    hidden = np.zeros((len(examples), width), np.float32)

    def keep(batch: Batch, last: torch.Tensor) -> None:
        weight = torch.arange(1, batch.shape[1] + 1).float() * batch.token_mask.view(batch.shape)
        hidden[batch.rows] = torch.einsum("bl,blh->bh", weight / weight.sum(1, keepdim=True), last).numpy()

    return {"sketch": _sketch(model, config, examples, None, keep), "hidden": hidden}


@torch.no_grad()
def fisher_sketches(
    model: Model, config: Config, arrays: dict[str, np.ndarray], examples: Sequence[Example]
) -> dict[str, np.ndarray]:
    """Sketches [n, DIM] of the layers' gradients whitened by the curvature, as `sketch_space=fisher` has them."""
    factors = [read_factors(arrays, layer.name) for layer in model.layers]
    return {"fisher": _sketch(model, replace(config, sketch_space="fisher"), examples, factors)}


def _sketch(
    model: Model,
    config: Config,
    examples: Sequence[Example],
    factors: list[Factors] | None,
    with_states: Callable[[Batch, torch.Tensor], None] | None = None,
) -> np.ndarray:
    """Sketches of the examples; `with_states` is given each batch and its last hidden states."""
    config = replace(config, projection_dim=DIM)
    sketchers = Sketchers(model, config, torch.float32, factors)
    gradients = GradientPass(model, config.loss_reduction)
    sketch = np.zeros((len(examples), DIM), np.float32)
    for batch in make_batches(examples, TOKENS):
        add, sums = sketchers.begin(), torch.zeros(len(batch.rows), DIM)
        last: list[torch.Tensor] = []
        handle = model.base.norm.register_forward_hook(lambda m, i, o, last=last: last.append(o.detach()))  # type: ignore[union-attr]
        gradients.run(batch, lambda index, a, d, places, add=add, sums=sums: add(index, a, d, places.examples, sums))  # type: ignore[misc]
        handle.remove()
        sketch[batch.rows] = sums.numpy()
        if with_states:
            with_states(batch, last[0])
    return sketch


def bm25(rows: Sequence[Row], seeds: Sequence[Row]) -> np.ndarray:
    """BM25 score [N, S] of each row for each seed's text."""
    index = Bm25([row.text for row in rows])
    return np.stack([index.scores(seed.text) for seed in seeds], 1)


def unit(x: np.ndarray) -> np.ndarray:
    """Rows at unit length, float32; rows of zeros stay."""
    return np.ascontiguousarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30), dtype=np.float32)
