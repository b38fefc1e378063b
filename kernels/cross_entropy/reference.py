"""Plain torch version of the loss and its gradient: the oracle. Shapes and dtypes: see __init__.py."""

from __future__ import annotations

import torch


def cross_entropy(logits, labels, targets, weights) -> tuple[torch.Tensor, torch.Tensor]:
    """Return -log p[label], and weight (p - onehot(target))."""
    p = logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
    nll = -p.gather(1, labels[:, None])[:, 0].double()
    return nll, loss_gradient(p.exp_(), targets, weights).to(logits.dtype)


def loss_gradient(p: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return weight (p - onehot(target)) [M, V], in the memory of the probabilities p."""
    own = targets[:, None]
    p.scatter_add_(1, own, torch.full_like(own, -1, dtype=p.dtype))
    p *= weights[:, None].to(p.dtype)
    return p
