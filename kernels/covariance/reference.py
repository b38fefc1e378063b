"""Plain torch version of the second moments: the oracle. Shapes and dtypes: see __init__.py."""

from __future__ import annotations

from itertools import pairwise

# How many numbers of per-example gradients exist at once: 2^22 float32 are 16 MiB, which last-level caches hold.
_ELEMENTS = 1 << 22
# Bands of a symmetric product: 4 save three eighths of the work; more bands make thin products.
_BANDS = 4
_LEAST_BAND = 64


def covariance(x, mask, out) -> None:
    """Add sum_t mask_t x_t x_t^T to out. The mask is 0 or 1, so it is enough to mask one side."""
    x = x.to(out.dtype)
    width = x.shape[1]
    masked = x * mask[:, None]
    # All memory is allocated before the first write, so a batch that runs out of memory has added nothing.
    total, count, square = masked.sum(0), mask.sum(), _square(masked, x)
    out[:width, :width] += square
    if out.shape[0] > width:
        out[width, :width] += total
        out[:width, width] += total
        out[width, width] += count


def _square(masked, x):
    """masked^T x, which is symmetric: the upper triangle in bands, and its mirror image."""
    width = x.shape[1]
    if width < _BANDS * _LEAST_BAND:
        return _mirrored(masked.T @ x)
    square = x.new_empty(width, width)
    band = -(-width // _BANDS)
    for i in range(0, width, band):
        j = min(width, i + band)
        square[i:j, i:] = masked[:, i:j].T @ x[:, i:]
        square[i:j, i:j] = _mirrored(square[i:j, i:j])
        square[j:, i:j] = square[i:j, j:].T
    return square


def _mirrored(square):
    """The upper triangle and its mirror image: some processors round the two triangles of a product differently."""
    return square.triu() + square.triu(1).T


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
