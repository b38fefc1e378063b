"""Loss and its gradient at the labelled positions, some positions at a time, so that the logits never exist whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from gdig.model.load import Model

# Numbers of logits that exist at once: 128 MiB of float32 on a device; 8 MiB on the CPU, whose caches hold that much.
_LOGITS = 1 << 25
_LOGITS_CPU = 1 << 21
_LEAST_POSITIONS = 128  # fewer make thin products


def head_loss(
    model: Model,
    picked: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor,
    noise: torch.Tensor | None = None,
    drawn: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Negative log-likelihood and its gradient.

    Args:
        model: for its head; without one, `picked` holds logits.
        picked: [M, H] hidden states (or [M, V] logits) that predict a label.
        labels: int64 [M], the data's own. weights: float64 [M] of each position in its example's loss.
        noise: float64 [M] in (0, 1): the gradient is of labels drawn from the model with these instead.
        drawn: int64 [M]: the gradient is of these labels, drawn before.

    Returns:
        nll: float64 [M], of the data's own labels. gradient: [M, H] of the weighted loss, dtype of `picked`. drawn:
        int64 [M] the labels drawn, None without noise and drawn.
    """
    gradient = torch.empty_like(picked)
    nll = torch.empty(len(picked), dtype=torch.float64, device=picked.device)
    if noise is not None:
        drawn = torch.empty_like(labels)
    for part in _parts(model, picked):
        x = picked[part].detach().requires_grad_()
        logits = x if model.head is None else model.head(x)
        p = logits.detach().log_softmax(-1, dtype=_at_least_float32(logits.dtype))
        own = labels[part, None]
        nll[part] = -p.gather(1, own)[:, 0].double()
        p.exp_()
        if noise is not None and drawn is not None:
            drawn[part] = draw_labels(p, noise[part])
        wanted = own if drawn is None else drawn[part, None]
        # The gradient of -log p_label at the logits is p - onehot(label).
        p.scatter_add_(1, wanted, torch.full_like(wanted, -1, dtype=p.dtype))
        p *= weights[part, None].to(p.dtype)
        p = p.to(logits.dtype)
        gradient[part] = p if logits is x else torch.autograd.grad(logits, x, p)[0]
    return nll, gradient, drawn


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


# Words that one running sum covers when labels are drawn.
_RUN = 128


def draw_labels(p: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Draw a label for each row of probabilities p [M, V] by inverting the distribution function at noise [M].

    In two steps, over runs of words and then within one, so that the running sums in float64 cost little. noise lies
    in (0, 1).

    Returns:
        int64 [M]. A row whose probabilities are not finite gets some label (its example has no finite loss either).
    """
    rows, words = p.shape
    runs = -(-words // _RUN)
    padded = torch.nn.functional.pad(p, (0, runs * _RUN - words)) if words % _RUN else p
    padded = padded.view(rows, runs, _RUN)
    ends = padded.sum(-1, dtype=torch.float64).cumsum(-1)  # [M, runs]
    # The sum may fall short of 1 by rounding; scaled, a number in (0, 1) always lies below it.
    wanted = (noise.double()[:, None] * ends[:, -1:]).nan_to_num(0.0)
    run = torch.searchsorted(ends, wanted, right=True).clamp(max=runs - 1)  # [M, 1]
    before = torch.where(run > 0, ends.gather(1, (run - 1).clamp(min=0)), 0.0)
    inside = padded.gather(1, run[:, :, None].expand(-1, 1, _RUN))[:, 0].double().cumsum(-1)
    place = torch.searchsorted(inside, wanted - before, right=True)[:, 0].clamp(max=_RUN - 1)
    return (run[:, 0] * _RUN + place).clamp(max=words - 1)


def head_fisher(
    model: Model, picked: torch.Tensor, weights: torch.Tensor, changes: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """Products with the Fisher matrix of the labels at each position, weighted, as seen from before the head.

    With z = head(x) and p = softmax(z), that matrix is w K^T (diag(p) - p p^T) K, K = dz/dx: what w times the outer
    product of the loss' gradient is on average over labels drawn from p, and w times the loss' Gauss-Newton matrix.

    Args:
        model: for its head; without one, `picked` holds logits.
        picked: [M, H] hidden states (or [M, V] logits) that predict a label.
        weights: [M].
        changes: of `picked`, each [M, H].

    Returns:
        For each of `changes` the product, [M, H], dtype of `picked`.
    """
    products = [torch.empty_like(picked) for _ in changes]
    for part in _parts(model, picked):
        with torch.enable_grad():
            x = picked[part].detach().requires_grad_()
            logits = x if model.head is None else model.head(x)
        p = logits.detach().softmax(-1, dtype=_at_least_float32(logits.dtype))
        # A product and a bias: what the head adds to nothing is the bias.
        nothing = None if model.head is None else model.head(torch.zeros_like(x[:1]))
        w = weights[part, None].to(p.dtype)
        for change, product in zip(changes, products, strict=True):
            u = change[part]
            u = (u if model.head is None else model.head(u) - nothing).to(p.dtype)
            u = p * (u - (p * u).sum(-1, keepdim=True)) * w
            u = u.to(logits.dtype)
            product[part] = u if logits is x else torch.autograd.grad(logits, x, u, retain_graph=True)[0]
    return products


def _parts(model: Model, picked: torch.Tensor) -> Iterator[slice]:
    """Runs of positions whose logits may exist at once."""
    most = _LOGITS_CPU if picked.device.type == "cpu" else _LOGITS
    step = max(_LEAST_POSITIONS, most // model.vocab_size)
    for i in range(0, len(picked), step):
        yield slice(i, i + step)
