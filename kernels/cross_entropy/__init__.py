"""The loss at labelled positions and its gradient at the logits: check the arguments, choose the implementation."""

from __future__ import annotations

import torch

from gdig.kernels.dispatch import resolve

from . import reference

loss_gradient = reference.loss_gradient


def cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor,
    *,
    impl: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Negative log-likelihood of `labels`, and the gradient of the weighted loss of `targets` at the logits.

    With p = softmax(z) of a row of logits z:

        nll = -log p[label]         gradient = weight (p - onehot(target))

    Args:
        logits: [M, V], floating point.
        labels: int64 [M], each in 0 .. V - 1.
        targets: int64 [M]: the labels, or others drawn from the model.
        weights: float64 [M], the weight of each row in its example's loss.
        impl: "auto", "triton" or "reference".

    Returns:
        nll: float64 [M], of float32 arithmetic (float64 for float64 logits). gradient: [M, V], dtype of `logits`.

    Raises:
        ValueError: when shapes do not fit one another, or `impl` is unknown.
        ConfigError: when Triton is asked for and cannot run here.
    """
    impl = resolve("cross_entropy", impl, logits.device, logits.dtype)
    if logits.dim() != 2:
        raise ValueError(f"cross_entropy: logits: expected [M, V], got {tuple(logits.shape)}")
    for name, x in (("labels", labels), ("targets", targets), ("weights", weights)):
        if x.shape != (len(logits),):
            raise ValueError(f"cross_entropy: {name}: expected shape {(len(logits),)}, got {tuple(x.shape)}")
    if impl == "triton":
        from . import triton

        return triton.cross_entropy(logits, labels, targets, weights)
    return reference.cross_entropy(logits, labels, targets, weights)
