"""The seeds' preconditioned gradients H^-1 G_s, once, in low-rank form; and how far that form is from exact."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from gdig import ops
from gdig.config import Config
from gdig.data.tokens import Example
from gdig.errors import ModelError
from gdig.model.batches import make_batches
from gdig.model.capture import GradientPass
from gdig.model.load import Model
from gdig.progress import Progress
from gdig.random import stream_key
from gdig.stages.curvature import Factors, with_ones
from gdig.stages.inverse import Inverse
from gdig.store import read_tensors, write_tensors

_PROBE_SEEDS = 32
"""Seeds on which the probe compares, spread evenly: an exact score costs a dense product a layer."""


@dataclass
class SeedFactors:
    """One layer's preconditioned seed gradients side by side.

    u [O, C], v [J, C]: seed s owns the columns column_offsets[s] .. column_offsets[s + 1] - 1, int64 [S + 1] on the
    CPU, and H^-1 G_s ~ U_s V_s^T. energy float64 [S]: the share of |H^-1 G_s|^2 kept.
    """

    u: torch.Tensor
    v: torch.Tensor
    column_offsets: torch.Tensor
    energy: np.ndarray

    def save(self, path: Path, layer: str) -> None:
        """Write one file; complete or absent."""
        write_tensors(
            path,
            {
                "u": self.u.cpu().numpy(),
                "v": self.v.cpu().numpy(),
                "column_offsets": self.column_offsets.numpy(),
                "energy": self.energy,
            },
            {"layer": layer},
        )

    @classmethod
    def load(cls, path: Path, device: torch.device) -> SeedFactors:
        """Read what `save` wrote."""
        arrays, _ = read_tensors(path)
        u, v, offsets = (torch.from_numpy(np.array(arrays[name])) for name in ("u", "v", "column_offsets"))
        return cls(u.to(device), v.to(device), offsets, np.array(arrays["energy"]))


@dataclass(frozen=True)
class SeedReport:
    """Losses [S] of the seeds, columns over all layers, least energy kept by any seed in any layer, and the difference
    between factored and exact scores on the probe: |factored - exact| / |exact| and Pearson's r over all pairs."""

    losses: list[float]
    columns: int
    least_energy: float
    probe_rows: int
    relative_error: float
    correlation: float


def precondition_seeds(
    model: Model,
    factors: Sequence[Factors | None],
    seeds: Sequence[Example],
    probe: Sequence[Example],
    config: Config,
    progress: Progress,
    where: Callable[[int], str] = "seed {}".format,
) -> tuple[list[SeedFactors], SeedReport]:
    """Apply the inverse Hessian to every seed's gradient and factor the result.

    Args:
        model: the frozen model.
        factors: curvature of each layer, or None for the identity.
        seeds: the seeds, in order.
        probe: candidates on which factored and exact scores are compared.
        config: inversion, damping, seed_energy, seed_rank, loss_reduction, seed.
        progress: where to show it.
        where: says where a seed stands, by its number, for errors.

    Raises:
        ModelError: when a seed's loss or gradient is not finite; the message says which.
    """
    gradients = GradientPass(model, config.loss_reduction)
    inverses = [Inverse(f, config, layer.name) for f, layer in zip(factors, model.layers, strict=True)]
    stash = _probe_gradients(gradients, probe)
    compared = set(np.unique(np.linspace(0, len(seeds) - 1, _PROBE_SEEDS).round().astype(int)).tolist())
    parts: list[list[tuple[torch.Tensor, torch.Tensor, float]]] = [[] for _ in model.layers]
    exact = np.zeros((len(probe), len(seeds)))
    losses: list[float] = []

    def sink(index: int, a: torch.Tensor, d: torch.Tensor, keep: torch.Tensor) -> None:
        dtype = torch.promote_types(a.dtype, torch.float32)
        a, d = with_ones(a.to(dtype), model.layers[index].width), d.to(dtype)
        key = stream_key("factor", config.seed, model.layers[index].name, len(losses)) >> 1
        part = inverses[index].low_rank(a, d, config.seed_energy, config.seed_rank, key)
        if not bool(torch.isfinite(part[0]).all() & torch.isfinite(part[1]).all()):
            raise ModelError(f"{where(len(losses))}: its gradient at {model.layers[index].name} is not finite")
        parts[index].append(part)
        if len(losses) in compared:
            exact[:, len(losses)] += _exact_scores(inverses[index], a, d, stash, index)

    with progress.stage("fit: seeds", len(seeds), "seeds") as bar:
        for number, seed in enumerate(seeds):
            (batch,) = make_batches([seed], 1, window=len(seed.input_ids))
            loss = float(gradients.run(batch, sink)[0])
            if not np.isfinite(loss):
                raise ModelError(f"{where(number)}: its loss is {loss}")
            losses.append(loss)
            bar.advance(1)
    joined = [_join(part) for part in parts]
    least = min(float(f.energy.min()) for f in joined)
    error, correlation = _compare(joined, stash, exact, sorted(compared))
    columns = sum(f.u.shape[1] for f in joined)
    return joined, SeedReport(losses, columns, least, len(probe), error, correlation)


def _join(parts: list[tuple[torch.Tensor, torch.Tensor, float]]) -> SeedFactors:
    ranks = torch.tensor([0] + [u.shape[1] for u, _, _ in parts])
    u = torch.cat([u for u, _, _ in parts], dim=1).contiguous()
    v = torch.cat([v for _, v, _ in parts], dim=1).contiguous()
    return SeedFactors(u, v, ranks.cumsum(0), np.array([kept for _, _, kept in parts]))


_Stash = list[list[tuple[torch.Tensor, torch.Tensor]]]
"""For each probe row and layer: a [T, J], d [T, O]."""


def _probe_gradients(gradients: GradientPass, probe: Sequence[Example]) -> _Stash:
    stash: _Stash = []
    layers = gradients.model.layers
    for example in probe:
        row: list = [None] * len(layers)

        def sink(index: int, a: torch.Tensor, d: torch.Tensor, keep: torch.Tensor, row: list = row) -> None:
            dtype = torch.promote_types(a.dtype, torch.float32)
            row[index] = (with_ones(a.to(dtype), layers[index].width), d.to(dtype).clone())

        (batch,) = make_batches([example], 1, window=len(example.input_ids))
        gradients.run(batch, sink)
        stash.append(row)
    return stash


def _exact_scores(inverse: Inverse, a: torch.Tensor, d: torch.Tensor, stash: _Stash, index: int) -> np.ndarray:
    """<G_e, H^-1 G_s> of one seed and layer with each probe row, without factoring: float64 [probe rows]."""
    w = inverse.dense(d.T @ a)
    scores = [float(((row[index][1] @ w) * row[index][0]).double().sum()) for row in stash]
    return np.array(scores)


def _compare(factors: list[SeedFactors], stash: _Stash, exact: np.ndarray, seeds: list[int]) -> tuple[float, float]:
    """Relative error and correlation of the factored scores over (probe row, compared seed)."""
    if not stash:
        return float("nan"), float("nan")
    rows = []
    for row in stash:
        total = np.zeros(exact.shape[1])
        for f, (a, d) in zip(factors, row, strict=True):
            part = torch.zeros(1, exact.shape[1], dtype=f.u.dtype, device=f.u.device)
            ops.score(a, d, torch.tensor([0, len(a)]), f.u, f.v, f.column_offsets, part)
            total += part[0].double().cpu().numpy()
        rows.append(total)
    x, y = np.stack(rows)[:, seeds].ravel(), exact[:, seeds].ravel()
    size = float(np.linalg.norm(y))
    error = float(np.linalg.norm(x - y)) / size if size else 0.0
    correlation = float(np.corrcoef(x, y)[0, 1]) if x.std() and y.std() else float("nan")
    return error, correlation
