"""Plain torch version of the second moments: the oracle. Shapes and dtypes: see __init__.py."""

from __future__ import annotations

from itertools import pairwise

# Bounds the per-example gradients that are held at once: 2^24 float32 are 64 MiB.
_ELEMENTS = 1 << 24


def covariance(x, keep, out) -> None:
    """Add sum_t keep_t x_t x_t^T to out; keep is 0 or 1, so it may weigh one side only."""
    x = x.to(out.dtype)
    width = x.shape[1]
    kept = x * keep[:, None]
    # Everything that allocates comes before the first write: a batch that runs out of memory has then added nothing.
    total, count = kept.sum(0), keep.sum()
    out[:width, :width].addmm_(kept.T, x)
    if out.shape[0] > width:
        out[width, :width] += total
        out[:width, width] += total
        out[width, width] += count


def squared_gradients(a, d, examples, out) -> None:
    """Add the elementwise square of each example's gradient to out, some examples at a time."""
    a, d = a.to(out.dtype), d.to(out.dtype)
    step = max(1, _ELEMENTS // out.numel())
    if examples.uniform is not None:
        shape = (len(examples), examples.uniform)
        a, d = a.unflatten(0, shape), d.unflatten(0, shape)
        for i in range(0, len(examples), step):
            out += (d[i : i + step].transpose(1, 2) @ a[i : i + step]).square_().sum(0)
        return
    for i, j in pairwise(examples.bounds):
        out += (d[i:j].T @ a[i:j]).square_()
