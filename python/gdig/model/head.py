"""The loss and its gradient at the labelled positions, some positions at a time: the logits never all exist at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from gdig import ops
from gdig.model.causal_model import Model

# How many logits exist at once: on the CPU 8 MiB of float32, which its caches hold. On a GPU a few hundred positions do
# not fill the tensor cores, and the head's matrix is read more often than logits are written. The fused loss has no
# float32 logits, so it takes four times as many: 2,048 positions of 64k words, 512 MiB with their gradient in bfloat16.
_LOGITS = 1 << 25
_LOGITS_FUSED = 1 << 27
_LOGITS_CPU = 1 << 21
_LEAST_POSITIONS = 128  # a product with fewer rows is slow


def head_loss(
    model: Model,
    predictors: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor,
    noise: torch.Tensor | None = None,
    drawn: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Negative log-likelihood and its gradient.

    Args:
        model: for its head. Without a head, the predictors are logits.
        predictors: [M, H] hidden states (or [M, V] logits) that predict a label.
        labels: int64 [M], the labels of the data.
        weights: float64 [M], the weight of each position in its example's loss.
        noise: float64 [M] in (0, 1). With these numbers labels are drawn from the model; the gradient is theirs.
        drawn: int64 [M], labels drawn before; the gradient is theirs.

    Returns:
        nll: float64 [M], of the labels of the data. gradient: [M, H] of the weighted loss, dtype of `predictors`.
        drawn: int64 [M], the drawn labels; None without `noise` and `drawn`.
    """
    gradient = torch.empty_like(predictors)
    nll = torch.empty(len(predictors), dtype=torch.float64, device=predictors.device)
    if noise is not None:
        drawn = torch.empty_like(labels)
    wide = noise is not None or not is_fused(predictors.device, predictors.dtype)
    for block in _blocks(model, predictors, wide=wide):
        x = predictors[block].detach().requires_grad_()
        logits = x if model.head is None else model.head(x)
        own, z = labels[block], logits.detach()
        if noise is not None and drawn is not None:
            nll[block], drawn[block], slope = _draw(z, own, noise[block], weights[block])
        else:
            nll[block], slope = ops.cross_entropy(z, own, own if drawn is None else drawn[block], weights[block])
        gradient[block] = slope if logits is x else torch.autograd.grad(logits, x, slope)[0]
    return nll, gradient, drawn


def _draw(
    logits: torch.Tensor, labels: torch.Tensor, noise: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What `ops.cross_entropy` returns for labels drawn from the model, and between the two the labels.

    The draw needs the probabilities, which the fused kernel never writes.
    """
    p = logits.log_softmax(-1, dtype=_at_least_float32(logits.dtype))
    nll = -p.gather(1, labels[:, None])[:, 0].double()
    p.exp_()
    drawn = draw_labels(p, noise)
    return nll, drawn, ops.loss_gradient(p, drawn, weights).to(logits.dtype)


@torch.no_grad()
def head_nll(model: Model, predictors: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of labels int64 [M] at predictors [M, H] (or logits [M, V]): float64 [M], no gradient.

    On a CPU the bits are those of `head_loss`. On CUDA, the fused loss differs by rounding.
    """
    nll = torch.empty(len(predictors), dtype=torch.float64, device=predictors.device)
    for block in _blocks(model, predictors, wide=True):
        logits = predictors[block] if model.head is None else model.head(predictors[block])
        p = logits.log_softmax(-1, dtype=_at_least_float32(logits.dtype))
        nll[block] = -p.gather(1, labels[block, None])[:, 0].double()
    return nll


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


# Words in a run, when labels are drawn.
_RUN = 128


def draw_labels(p: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Draw a label for each row of probabilities p [M, V]: the inverse of the distribution function at noise [M].

    There are two steps, first over runs of words and then in one run, so that the sums in float64 cost little. The
    noise is in (0, 1).

    Returns:
        int64 [M]. A row whose probabilities are not finite gets any label; its example's loss is not finite either.
    """
    rows, words = p.shape
    runs = -(-words // _RUN)
    padded = torch.nn.functional.pad(p, (0, runs * _RUN - words)) if words % _RUN else p
    padded = padded.view(rows, runs, _RUN)
    ends = padded.sum(-1, dtype=torch.float64).cumsum(-1)  # [M, runs]
    # By rounding, the sum can be less than 1. A scaled number of (0, 1) is always below the sum.
    height = (noise.double()[:, None] * ends[:, -1:]).nan_to_num(0.0)
    run = torch.searchsorted(ends, height, right=True).clamp(max=runs - 1)  # [M, 1]
    before = torch.where(run > 0, ends.gather(1, (run - 1).clamp(min=0)), 0.0)
    inside = padded.gather(1, run[:, :, None].expand(-1, 1, _RUN))[:, 0].double().cumsum(-1)
    word = torch.searchsorted(inside, height - before, right=True)[:, 0].clamp(max=_RUN - 1)
    return (run[:, 0] * _RUN + word).clamp(max=words - 1)


def head_fisher(
    model: Model, predictors: torch.Tensor, weights: torch.Tensor, changes: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """Products with the weighted Fisher matrix of the labels at each position, as a matrix on the head's inputs.

    With z = head(x), p = softmax(z) and K = dz/dx, the matrix is w K^T (diag(p) - p p^T) K. Over labels drawn from p,
    it is w times the mean outer product of the loss' gradient. It is also w times the loss' Gauss-Newton matrix.

    Args:
        model: for its head. Without a head, the predictors are logits.
        predictors: [M, H] hidden states (or [M, V] logits) that predict a label.
        weights: w [M].
        changes: of the predictors, each [M, H].

    Returns:
        For each of `changes` the product, [M, H], dtype of `predictors`.
    """
    products = [torch.empty_like(predictors) for _ in changes]
    for block in _blocks(model, predictors, wide=True):
        with torch.enable_grad():
            x = predictors[block].detach().requires_grad_()
            logits = x if model.head is None else model.head(x)
        p = logits.detach().softmax(-1, dtype=_at_least_float32(logits.dtype))
        # The head is a product and a bias; its output for zeros is the bias.
        bias = None if model.head is None else model.head(torch.zeros_like(x[:1]))
        w = weights[block, None].to(p.dtype)
        for change, product in zip(changes, products, strict=True):
            u = change[block]
            u = (u if model.head is None else model.head(u) - bias).to(p.dtype)
            u = p * (u - (p * u).sum(-1, keepdim=True)) * w
            u = u.to(logits.dtype)
            product[block] = u if logits is x else torch.autograd.grad(logits, x, u, retain_graph=True)[0]
    return products


def head_bytes(model: Model) -> tuple[int, int]:
    """Bytes of what `head_loss` holds: of a block of positions, and for each token beyond.

    A block has its logits, their probabilities, those of the drawn labels' runs, and the gradient at the logits. Where
    the whole model makes the logits, they exist for all tokens at once, and so does their gradient.
    """
    wide, narrow = _at_least_float32(model.dtype).itemsize, model.dtype.itemsize
    fused, plain = (block_positions(model.device.type, model.vocab_size, wide=w) for w in (False, True))
    block = plain * (2 * wide + 2 * narrow)
    if is_fused(model.device, model.dtype):
        block = max(block, fused * 2 * narrow)
    block *= model.vocab_size
    return (block, 0) if model.head is not None else (block, 3 * model.vocab_size * model.dtype.itemsize)


def is_fused(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `ops.cross_entropy` makes no float32 probabilities of logits of this dtype."""
    return ops.resolve("cross_entropy", "auto", device, dtype) == "triton"


def block_positions(device_type: str, vocab_size: int, *, wide: bool = False) -> int:
    """How many positions have their logits at once. wide: with probabilities in float32 beside them."""
    n_logits = _LOGITS_CPU if device_type == "cpu" else _LOGITS if wide else _LOGITS_FUSED
    return max(_LEAST_POSITIONS, n_logits // vocab_size)


def _blocks(model: Model, predictors: torch.Tensor, *, wide: bool) -> Iterator[slice]:
    """Blocks of positions whose logits can exist at once."""
    step = block_positions(predictors.device.type, model.vocab_size, wide=wide)
    for i in range(0, len(predictors), step):
        yield slice(i, i + step)
