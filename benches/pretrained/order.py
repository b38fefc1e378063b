"""What rules of choice are made of: views of scores relative to the pool, and ways to take rows by them."""

from __future__ import annotations

import numpy as np

from benches.pretrained.view import View
from gdig import resample


def relative(x: np.ndarray) -> np.ndarray:
    """Columns less their mean over the pool, by their standard deviation. [N, S]"""
    return (x - x.mean(0)) / np.maximum(x.std(0, ddof=1), 1e-30)


def steady(x: np.ndarray) -> np.ndarray:
    """gdig's score of a row [N]: sum over the seeds by the root of S times the sum of squares."""
    return x.sum(1) / np.maximum(np.sqrt(x.shape[1] * (x * x).sum(1)), 1e-30)


def ranks(x: np.ndarray) -> np.ndarray:
    """Rank of each row in each column, 0 the lowest, 1 the highest. [N, S]"""
    return x.argsort(0, kind="stable").argsort(0, kind="stable") / (len(x) - 1)


def top(score: np.ndarray, k: int) -> np.ndarray:
    """The k rows with the highest score."""
    return np.argsort(-score, kind="stable")[:k]


def even_draw(view: View, eligible: np.ndarray, k: int, random_seed: int, space: str = "raw") -> np.ndarray:
    """Draw k of the eligible rows evenly from the clusters."""
    return resample(np.where(eligible, view.labels(k, random_seed, space), -1), k, random_seed)


def reaching(agreement: np.ndarray, tau: float, least: int) -> np.ndarray:
    """Rows whose agreement reaches tau, or the largest agreement that `least` rows reach."""
    ordered = np.sort(agreement)[::-1]
    return agreement >= min(tau, ordered[min(least, len(ordered)) - 1])


def by_turns(x: np.ndarray, k: int, tasks: np.ndarray | None = None) -> np.ndarray:
    """Seeds (or tasks, and their seeds inside) take turns; each takes the free row that is highest for it."""
    order, free, chosen = np.argsort(-x, axis=0, kind="stable"), np.ones(len(x), bool), []
    pointer = np.zeros(x.shape[1], int)
    turns = [np.flatnonzero(tasks == t) for t in np.unique(tasks)] if tasks is not None else [np.arange(x.shape[1])]
    step = 0
    while len(chosen) < min(k, len(x)):
        seeds = turns[step % len(turns)]
        seed = seeds[step // len(turns) % len(seeds)]
        while not free[order[pointer[seed], seed]]:
            pointer[seed] += 1
        row = order[pointer[seed], seed]
        free[row] = False
        chosen.append(row)
        step += 1
    return np.array(chosen)


def blend(x: np.ndarray) -> np.ndarray:
    """A seed's own relative view of each row, and that of all seeds together, in equal measure. [N, S]"""
    own = relative(x)
    shared = own.mean(1)
    return own + (shared / shared.std())[:, None]
