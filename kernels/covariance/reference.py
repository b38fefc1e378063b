"""Plain torch version of the second moments: the oracle. Shapes and dtypes: see __init__.py."""

from __future__ import annotations

from itertools import pairwise

import torch

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


def covariance_bands(x, mask, bands) -> None:
    """Add sum_t mask_t x_t x_t^T to the bands [rows, width - first row] of its upper triangle."""
    width = bands[0].shape[1]
    x = x.to(bands[0].dtype)
    if not bool((mask != 0).all()):
        x = x[mask != 0]
    if width > x.shape[1]:
        x = torch.cat([x, x.new_ones(len(x), 1)], dim=1)
    first = 0
    for band in bands:
        # The product is added in place: no second matrix, no mirror image.
        band.addmm_(x[:, first : first + len(band)].T, x[:, first:])
        first += len(band)


def squared_gradients(a, d, examples, out) -> None:
    """Add the elementwise square of each example's gradient to out, one example at a time."""
    a, d = a.to(out.dtype), d.to(out.dtype)
    # All memory is allocated before the first write, so a batch that runs out of memory has added nothing.
    gradient = torch.empty_like(out)
    for i, j in pairwise(examples.bounds):
        if i == j:
            continue  # an expert that the example does not go to
        torch.mm(d[i:j].T, a[i:j], out=gradient)
        out.addcmul_(gradient, gradient)


def covariance_experts(x, mask, rows, out) -> None:
    """Add the second moments of each expert's rows to its own sums."""
    for (first, last), sums in zip(pairwise(rows.bounds), out, strict=True):
        if first < last:
            covariance(x[first:last], mask[first:last], sums)


def squared_gradients_experts(a, d, rows, out) -> None:
    """Add the squares of each expert's gradients to its own sums. An expert whose sums are None has none."""
    for (first, last), examples, sums in zip(pairwise(rows.bounds), rows.of_experts, out, strict=True):
        if first < last and sums is not None:
            squared_gradients(a[first:last], d[first:last], examples, sums)
