"""How well a score tells two kinds of rows apart."""

from __future__ import annotations

import numpy as np


def auroc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Chance that a positive scores higher than a negative, ties counting half (Mann-Whitney)."""
    values, place = np.unique(np.concatenate([positive, negative]), return_inverse=True)
    n_positive, n_negative = (np.bincount(p, minlength=len(values)) for p in np.split(place, [len(positive)]))
    below = n_negative.cumsum() - n_negative
    return float((n_positive * (below + n_negative / 2)).sum() / (len(positive) * len(negative)))
