"""The score net of Self-Filter (arXiv 2402.12501): which rows a model would rather leave, told from their features."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from gdig.data.features import Features
from gdig.data.token_rows import IGNORED
from gdig.errors import ConfigError, ModelError
from gdig.store.tensor_file import read_tensors, write_tensors

_CHUNK = 1 << 22
"""Numbers of a chunk of features in memory."""
_ALIKE = 1e-10
"""Mean square distance of the unit rows from their mean, below which they are all the same but for rounding."""
_NOT_IN_THE_SOFTMAX = -1e30


class ScoreNet(nn.Module):
    """A linear function of a row's direction, f = z . weight / F with z = (u - mean) * scale.

    u is the row at unit length; mean [F] and scale, of the rows it was made for, make an entry of z 1 in root mean
    square. So the features' own scale has no say, and a step of Adam with the learning rate r moves the f of a usual
    row by at most r or so, however many features there are. There is no bias: a softmax over rows does not see it. The
    weight begins at zero, where every row weighs the same.

    Attributes:
        weight: float32 [F], trained. mean: float32 [F]. scale: float32 [].
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dim))
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, units: torch.Tensor) -> torch.Tensor:
        """f [B] of rows at unit length [B, F]; the difficulty is -f."""
        return ((units - self.mean) * self.scale) @ self.weight / len(self.weight)

    @classmethod
    def of(cls, features: Features) -> ScoreNet:
        """Make the net for these rows.

        Raises:
            ConfigError: if there are fewer than two, one is not finite, or all point the same way.
        """
        if len(features) < 2:
            raise ConfigError(f"features: expected at least 2 rows to compare, got {len(features)}")
        total, squares = np.zeros(features.dim), 0.0
        for at in _chunks(features):
            units = features.units(at).astype(np.float64)
            if not np.isfinite(units).all():
                row = int(at[np.argmin(np.isfinite(units).all(1))])
                raise ConfigError(f"features: row {row}: expected finite numbers")
            total += units.sum(0)
            squares += float((units * units).sum())
        mean = total / len(features)
        spread = squares / len(features) - float(mean @ mean)
        if spread < _ALIKE:
            raise ConfigError("features: all rows point the same way, so that they say nothing of a row")
        net = cls(features.dim)
        net.mean.copy_(torch.from_numpy(mean))
        net.scale.fill_((features.dim / spread) ** 0.5)
        return net

    def save(self, path: Path, metadata: dict[str, str] | None = None) -> None:
        """Write the net to one safetensors file, complete or not at all."""
        write_tensors(path, {name: tensor.cpu().numpy() for name, tensor in self.state_dict().items()}, metadata)

    def load(self, path: Path) -> None:
        """Take what `save` wrote.

        Raises:
            StoreError: if the file is missing or damaged.
            ModelError: if it holds a net for other features.
        """
        tensors, _ = read_tensors(path)
        found = {name: list(x.shape) for name, x in tensors.items()}
        expected = {name: list(x.shape) for name, x in self.state_dict().items()}
        if found != expected:
            raise ModelError(f"{path}: expected the tensors {expected} of a score net, got {found}")
        self.load_state_dict({name: torch.from_numpy(np.array(x)) for name, x in tensors.items()})


@torch.no_grad()
def difficulty(net: ScoreNet, features: Features | NDArray[Any]) -> NDArray[np.float32]:
    """Difficulty of rows, -f: float32 [N], higher is harder. Where its zero lies, and its scale, mean nothing.

    Args:
        net: a trained net.
        features: of the rows, [N, F].
    """
    rows = features if isinstance(features, Features) else Features(features)
    found = np.empty(len(rows), np.float32)
    device = net.weight.device
    for at in _chunks(rows):
        found[at] = -net(torch.from_numpy(rows.units(at)).to(device, net.weight.dtype)).float().cpu().numpy()
    return found


def weighted_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    scores: torch.Tensor,
    reduction: Literal["mean", "sum"] = "mean",
    shift: bool = True,
) -> torch.Tensor:
    """The loss of a batch, its rows weighed by w = softmax(f).

    "mean": sum_b w_b m_b, with m_b the mean over row b's target tokens. "sum", as published: sum_b B w_b s_b / T, with
    s_b the sum and T all target tokens of the batch. With equal weights these are the mean over rows and the mean over
    tokens. A row without a target token has no part in it.

    Args:
        logits: [B, L, V].
        labels: int64 [B, L], -100 where there is no loss, such as at padding and at tokens of an image.
        scores: f [B].
        reduction: a row's loss. By the sum, long rows count as hard.
        shift: a label stands at its own token, which the logits before predict (causal models); else below its logits.

    Returns:
        A number, differentiable in logits and scores.
    """
    if shift:
        logits, labels = logits[:, :-1], labels[:, 1:]
    is_target = labels != IGNORED
    # Only rows of logits with a loss are made float32. Put into place, not added, so that CUDA sums in one order too.
    picked = logits[is_target].to(scores.dtype)
    losses = torch.zeros(labels.shape, dtype=scores.dtype, device=logits.device)
    losses[is_target] = nn.functional.cross_entropy(picked, labels[is_target], reduction="none")
    counts = is_target.sum(1)
    counted = counts > 0
    weights = torch.softmax(scores.masked_fill(~counted, _NOT_IN_THE_SOFTMAX), 0)
    if reduction == "mean":
        return (weights * losses.sum(1) / counts.clamp(min=1)).sum()
    return counted.sum() * (weights * losses.sum(1)).sum() / counts.sum().clamp(min=1)


def _chunks(features: Features) -> Iterator[NDArray[np.int64]]:
    step = max(1, _CHUNK // features.dim)
    for start in range(0, len(features), step):
        yield np.arange(start, min(start + step, len(features)))
