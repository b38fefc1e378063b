"""Torch version of the scores through per-example gradients. Shapes and dtypes: see __init__.py."""

from __future__ import annotations

from itertools import pairwise

import torch

# How many numbers of W and of the gradients a product takes: 8 and 16 MiB of float32. On a core with 512 KiB of
# second-level and 32 MiB of third-level cache, 1536 x 576, 64 seeds and 12 to 48 examples of 88 tokens, a quarter of
# the first number takes 1.4 to 1.7 times as long, and a quarter of the second up to 1.9 times (LOG.md).
_WEIGHTS = 1 << 21
_GRADIENTS = 1 << 22


def score_dense(a, d, examples, w, scale, out) -> None:
    """Add <G_e, W_s> to out [B, S], some rows of the layer and some examples at a time.

    Products are in the dtype of `out`, but in bfloat16 for W in bfloat16.
    """
    seeds, outputs, _ = w.shape
    width = a.shape[1]
    dtype = w.dtype if w.dtype == torch.bfloat16 else out.dtype
    a, d = a.to(dtype), d.to(dtype)
    rows = max(1, min(outputs, _WEIGHTS // (width * max(1, seeds))))
    sums = out if scale is None else torch.zeros_like(out)
    # One buffer for all rows: a new one each time would be new memory, which the system clears first.
    wide = None if w.dtype == dtype else out.new_empty(seeds, rows, w.shape[2])
    for o in range(0, outputs, rows):
        block = w[:, o : o + rows]
        if wide is not None:
            block = wide[:, : block.shape[1]].copy_(block)
        bias = block[:, :, width] if w.shape[2] > width else None
        weights = block[:, :, :width].flatten(1)  # without a bias no copy
        most = max(1, _GRADIENTS // (rows * width))
        for i, gradients, of_bias in _groups(a, d[:, o : o + rows], examples, most, bias is not None):
            own = sums[i : i + len(gradients)]
            for x, y in [(gradients.flatten(1), weights)] + ([] if bias is None else [(of_bias, bias)]):
                if dtype == out.dtype:
                    own.addmm_(x, y.T)
                else:
                    own += x @ y.T
    if scale is not None:
        out += sums * scale


def _groups(a, d, examples, most, with_bias):
    """Yield the first example's number, gradients [examples, rows, I] and the bias' [examples, rows] or None.

    At most `most` examples at a time, so that their gradients stay in the cache while W is read once for all of them.
    """
    if examples.uniform is not None:
        shape = (len(examples), examples.uniform)
        a, d = a.unflatten(0, shape), d.unflatten(0, shape)
        for i in range(0, len(examples), most):
            x, y = a[i : i + most], d[i : i + most]
            yield i, y.transpose(1, 2) @ x, y.sum(1) if with_bias else None
        return
    pairs = list(pairwise(examples.bounds))
    for first in range(0, len(pairs), most):
        group = pairs[first : first + most]
        gradients = a.new_empty(len(group), d.shape[1], a.shape[1])
        for number, (i, j) in enumerate(group):
            if i < j:
                torch.mm(d[i:j].T, a[i:j], out=gradients[number])
            else:
                gradients[number].zero_()
        yield first, gradients, torch.stack([d[i:j].sum(0) for i, j in group]) if with_bias else None


def score_dense_experts(a, d, rows, w, scale, out) -> None:
    """Add the scores of each expert's rows, expert by expert. An expert whose W is None has no part."""
    for number, (first, last) in enumerate(pairwise(rows.bounds)):
        if first < last and w[number] is not None:
            score_dense(a[first:last], d[first:last], rows.of_experts[number], w[number], scale[number], out)
