"""Plain torch version of the influence scores: the oracle. Shapes and dtypes: see __init__.py."""

from __future__ import annotations

from itertools import pairwise

import torch

# How many products [T, columns] exist at once: 2^24 float32 are 64 MiB.
_ELEMENTS = 1 << 24


def score(a, d, examples, u, v, seeds, out) -> None:
    """Add sum_t sum_{c of s} (d_t . u_c)(a_t . v_c) to out [B, S], some seeds at a time.

    The two products are in the dtype of `out`, but in bfloat16 for U and V in bfloat16; all sums are in that of `out`.
    """
    dtype = u.dtype if u.dtype == torch.bfloat16 else out.dtype
    tokens, width = a.shape
    a, d = a.to(dtype), d.to(dtype)
    bounds = seeds.bounds
    most = max(1, _ELEMENTS // max(1, tokens))
    first = 0
    while first < len(bounds) - 1:
        last = first + 1
        while last < len(bounds) - 1 and bounds[last + 1] - bounds[first] <= most:
            last += 1
        i, j = bounds[first], bounds[last]
        right = a @ v[:width, i:j]  # [T, columns of these seeds]
        if v.shape[0] > width:
            right = right + v[width, i:j]
        products = (d @ u[:, i:j]).to(out.dtype).mul_(right)
        per_example = _segment_sum(products, examples.bounds, 0)  # [B, columns of these seeds]
        out[:, first:last] += _segment_sum(per_example, bounds[first : last + 1], 1)
        first = last


def _segment_sum(x: torch.Tensor, bounds: list[int], dim: int) -> torch.Tensor:
    """Sum the runs between neighbouring `bounds` along dim; a run can be empty."""
    lengths = [j - i for i, j in pairwise(bounds)]
    if len(set(lengths)) == 1:
        return x.unflatten(dim, (len(lengths), lengths[0])).sum(dim + 1)
    return torch.stack([run.sum(dim) for run in x.split(lengths, dim)], dim)


def score_experts(a, d, rows, u, v, seeds, out) -> None:
    """Add the scores of each expert's rows, expert by expert. An expert without columns has no part."""
    for number, (first, last) in enumerate(pairwise(rows.bounds)):
        if first < last and u[number].shape[1]:
            own = slice(first, last)
            score(a[own], d[own], rows.of_experts[number], u[number], v[number], seeds[number], out)
