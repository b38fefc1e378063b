"""The score net of Self-Filter (arXiv 2402.12501). It predicts from features which rows are hard for a model."""

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
"""Numbers in a chunk of features in memory."""
_ALIKE = 1e-10
"""Below this mean square distance from their mean, unit rows differ only by rounding."""
_NOT_IN_THE_SOFTMAX = -1e30


class ScoreNet(nn.Module):
    """A linear function of a row's direction, f = z . weight / F with z = (u - mean) * scale.

    - u is the row at unit length.
    - mean [F] and scale come from the rows of training. They give an entry of z the root mean square 1.
    - So the scale of the features has no effect. A step of Adam with the learning rate r changes the f of a usual row
      by about r at most. That holds for any number of features.
    - There is no bias, because a softmax over rows does not change with it.
    - The weight begins at zero, where all rows have equal weight.

    Attributes:
        weight: float32 [F], trained.
        mean: float32 [F].
        scale: float32 [].
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dim))
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, units: torch.Tensor) -> torch.Tensor:
        """Return f [B] of rows at unit length [B, F]. The difficulty is -f."""
        return ((units - self.mean) * self.scale) @ self.weight / len(self.weight)

    @classmethod
    def of(cls, features: Features) -> ScoreNet:
        """Make a net for these rows.

        Raises:
            ConfigError: if there are fewer than two rows, if a row is not finite, or if all rows have one direction.
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
            raise ConfigError(
                "features: all rows have the same direction, expected rows that differ; give other features"
            )
        net = cls(features.dim)
        net.mean.copy_(torch.from_numpy(mean))
        net.scale.fill_((features.dim / spread) ** 0.5)
        return net

    def save(self, path: Path, metadata: dict[str, str] | None = None) -> None:
        """Write the net to one safetensors file. The file is complete or absent."""
        write_tensors(path, {name: tensor.cpu().numpy() for name, tensor in self.state_dict().items()}, metadata)

    def load(self, path: Path) -> None:
        """Load a file that `save` wrote.

        Raises:
            StoreError: if the file is missing or damaged.
            ModelError: if it holds a net for other features.
        """
        tensors, _ = read_tensors(path)
        given = {name: list(x.shape) for name, x in tensors.items()}
        expected = {name: list(x.shape) for name, x in self.state_dict().items()}
        if given != expected:
            raise ModelError(f"{path}: expected the tensors {expected} of a score net, got {given}; train the net anew")
        self.load_state_dict({name: torch.from_numpy(np.array(x)) for name, x in tensors.items()})


@torch.no_grad()
def difficulty(net: ScoreNet, features: Features | NDArray[Any]) -> NDArray[np.float32]:
    """Return the difficulty -f of rows: float32 [N], higher is harder. Its zero and its scale have no meaning.

    Args:
        net: a trained net.
        features: of the rows, [N, F].
    """
    rows = features if isinstance(features, Features) else Features(features)
    difficulties = np.empty(len(rows), np.float32)
    device = net.weight.device
    for at in _chunks(rows):
        difficulties[at] = -net(torch.from_numpy(rows.units(at)).to(device, net.weight.dtype)).float().cpu().numpy()
    return difficulties


def weighted_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    scores: torch.Tensor,
    reduction: Literal["mean", "sum"] = "mean",
    shift: bool = True,
) -> torch.Tensor:
    """Return the loss of a batch whose rows are weighted by w = softmax(f).

    - "mean": sum_b w_b m_b, where m_b is the mean over the target tokens of row b. With equal weights this is the mean
      over rows.
    - "sum", as published: sum_b B w_b s_b / T. Here s_b is the sum over the target tokens of row b, and T is the
      number of target tokens in the batch. With equal weights this is the mean over tokens.

    A row without a target token has no effect.

    Args:
        logits: [B, L, V].
        labels: int64 [B, L], -100 where there is no loss, such as padding and tokens of an image.
        scores: f [B].
        reduction: how the losses of a row's tokens give the row's loss. By "sum", long rows count as hard.
        shift: whether the logits at a position predict the label at the next one (causal models). Otherwise they
            predict the label at the same position.

    Returns:
        A scalar, differentiable in logits and scores.
    """
    if shift:
        logits, labels = logits[:, :-1], labels[:, 1:]
    is_target = labels != IGNORED
    # Only logits with a loss become float32. Losses are assigned, not added, so CUDA keeps one order of summation.
    target_logits = logits[is_target].to(scores.dtype)
    losses = torch.zeros(labels.shape, dtype=scores.dtype, device=logits.device)
    losses[is_target] = nn.functional.cross_entropy(target_logits, labels[is_target], reduction="none")
    counts = is_target.sum(1)
    has_target = counts > 0
    weights = torch.softmax(scores.masked_fill(~has_target, _NOT_IN_THE_SOFTMAX), 0)
    if reduction == "mean":
        return (weights * losses.sum(1) / counts.clamp(min=1)).sum()
    return has_target.sum() * (weights * losses.sum(1)).sum() / counts.sum().clamp(min=1)


def _chunks(features: Features) -> Iterator[NDArray[np.int64]]:
    step = max(1, _CHUNK // features.dim)
    for start in range(0, len(features), step):
        yield np.arange(start, min(start + step, len(features)))
