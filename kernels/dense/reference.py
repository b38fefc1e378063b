"""Torch version of the scores through per-example gradients. Shapes and dtypes: see __init__.py."""

from __future__ import annotations

from itertools import pairwise

# How many numbers of W and of the gradients a product takes: 4 and 16 MiB of float32. On two cores with 2 MiB of
# second-level cache each, O x J from 512 x 128 to 256 x 1024 and 32 seeds, this reaches 140 to 170 GFLOP/s; a bare
# product reaches 200. A quarter of either number costs 5 to 20 %.
_WEIGHTS = 1 << 20
_GRADIENTS = 1 << 22


def score_dense(a, d, examples, w, out) -> None:
    """Add <G_e, W_s> to out [B, S], some rows of the layer and some examples at a time."""
    outputs, _, seeds = w.shape
    width = a.shape[1]
    a, d = a.to(out.dtype), d.to(out.dtype)
    rows = max(1, min(outputs, _WEIGHTS // (width * max(1, seeds))))
    for o in range(0, outputs, rows):
        part = w[o : o + rows, :width].reshape(-1, seeds)
        bias = w[o : o + rows, width] if w.shape[1] > width else None
        for i, x, y in _groups(a, d[:, o : o + rows], examples, max(1, _GRADIENTS // (rows * width))):
            gradients = y.transpose(1, 2) @ x  # [examples, rows, I]
            out[i : i + len(x)].addmm_(gradients.flatten(1), part)
            if bias is not None:
                out[i : i + len(x)].addmm_(y.sum(1), bias)


def _groups(a, d, examples, most):
    """Yield the first example's number and a, d as [examples, tokens, width], at most `most` examples at a time."""
    if examples.uniform is not None:
        shape = (len(examples), examples.uniform)
        a, d = a.unflatten(0, shape), d.unflatten(0, shape)
        for i in range(0, len(examples), most):
            yield i, a[i : i + most], d[i : i + most]
        return
    for number, (i, j) in enumerate(pairwise(examples.bounds)):
        yield number, a[None, i:j], d[None, i:j]
