"""Loss and its gradient at the labelled positions, some positions at a time, so that the logits never exist whole."""

from __future__ import annotations

import torch
from torch import nn

from gdig.model.load import Model

# Bounds the logits that exist at once: 2^25 float32 are 128 MiB.
_LOGITS = 1 << 25


def head_loss(
    model: Model,
    picked: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor,
    noise: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Negative log-likelihood and its gradient.

    Args:
        model: for its head; without one, `picked` holds logits.
        picked: [M, H] hidden states (or [M, V] logits) that predict a label.
        labels: int64 [M], the data's own. weights: float64 [M] of each position in its example's loss.
        noise: float64 [M] in (0, 1): the gradient is of labels drawn from the model instead.

    Returns:
        nll: float64 [M], of the data's own labels. gradient: [M, H] of the weighted loss, dtype of `picked`.
    """
    gradient = torch.empty_like(picked)
    nll = torch.empty(len(picked), dtype=torch.float64, device=picked.device)
    step = max(1, _LOGITS // model.vocab_size)
    for i in range(0, len(picked), step):
        part = slice(i, i + step)
        x = picked[part].detach().requires_grad_()
        logits = x if model.head is None else model.head(x)
        logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
        own = nn.functional.cross_entropy(logits, labels[part], reduction="none")
        loss = own
        if noise is not None:
            loss = nn.functional.cross_entropy(logits, draw_labels(logits.detach(), noise[part]), reduction="none")
        (gradient[part],) = torch.autograd.grad((loss * weights[part].to(loss.dtype)).sum(), x)
        nll[part] = own.detach().double()
    return nll, gradient


def draw_labels(logits: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Draw a label for each row of logits [M, V] by inverting the distribution function at noise [M] in (0, 1).

    Returns:
        int64 [M]. A row whose logits are not finite gets label 0 (its example has no finite loss either).
    """
    cumulative = torch.softmax(logits.double(), dim=-1).cumsum(-1)
    # The sum may fall short of 1 by rounding; scaled, a number in (0, 1) always lies below it.
    wanted = noise.double()[:, None] * cumulative[:, -1:]
    index = torch.searchsorted(cumulative, wanted.nan_to_num(0.0), right=True)[:, 0]
    return index.clamp(max=logits.shape[-1] - 1)
