"""Whether the seeds can rank the pool: a measurement on a sample of the rows of a finished sweep."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from gdig.run.record import SeedHealth
from gdig.store.gather import gather
from gdig.store.sketches import SketchStore

LEAST_RELIABILITY = 0.5
"""Below this reliability, the draw of the seeds causes at least half of the differences between rows."""
_GOOD_RELIABILITY = 0.8
_SAMPLE_ROWS = 4096


def seeds_wanted(health: SeedHealth, n_seeds: int) -> int:
    """Return how many seeds of the same kind have a reliability of 0.8 (Spearman 1910, Brown 1910).

    Returns -1 if no number of seeds has it.
    """
    good, r = _GOOD_RELIABILITY, health.reliability
    return math.ceil(n_seeds * good / (1 - good) * (1 - r) / r - 1e-9) if r > 0 else -1


def measure_seed_health(store: SketchStore, losses: Sequence[float]) -> SeedHealth:
    """Measure the health of the seeds on up to 4,096 rows of a finished sweep, evenly spread.

    Args:
        store: the sweep.
        losses: [S], the losses of the seeds.
    """
    influence, loss = _sample(store)
    return SeedHealth(
        len(loss),
        reliability(influence > 0),
        float(np.mean(losses)),
        float(np.std(losses, ddof=1) / math.sqrt(len(losses))) if len(losses) > 1 else math.inf,
        float(np.median(loss)) if len(loss) else math.nan,
    )


def reliability(votes: np.ndarray) -> float:
    """Return Cronbach's alpha of votes [n, S], at least 0 (Kuder and Richardson 1937, formula 20).

    Returns NaN if the numbers of votes do not vary, or if there are fewer than two rows or seeds.
    """
    n_seeds = votes.shape[1]
    if len(votes) < 2 or n_seeds < 2:
        return math.nan
    total = votes.sum(1, dtype=np.float64).var()
    share = votes.mean(0, dtype=np.float64)
    if total == 0:
        return math.nan
    return max(0.0, float(n_seeds / (n_seeds - 1) * (1 - (share * (1 - share)).sum() / total)))


def seed_warnings(
    health: SeedHealth, losses: Sequence[float], loss_reduction: str, where: Callable[[int], str] = "seed {}".format
) -> list[str]:
    """Return the warnings about seeds that will order the pool badly.

    Args:
        health: the result of `measure_seed_health`.
        losses: [S], the losses of the seeds.
        loss_reduction: "mean" compares the losses of seeds and pool. "sum" does not, because lengths differ.
        where: returns the place of a seed, by its number.
    """
    warnings, n_seeds = [], len(losses)
    if health.reliability < LEAST_RELIABILITY:
        wanted = seeds_wanted(health, n_seeds)
        advice = f"about {wanted} of the same kind would repeat 80 %" if wanted > 0 else "they agree on nothing"
        warnings.append(
            f"the seeds disagree about the pool: another {n_seeds} like them would repeat {health.reliability:.0%} of "
            f"the differences between rows, expected at least {LEAST_RELIABILITY:.0%} ({advice}); use more seeds, or a "
            "model that knows the task better"
        )
    if loss_reduction == "mean" and health.seed_loss - health.seed_loss_error > health.pool_loss:
        hardest = np.argsort(-np.asarray(losses), kind="stable")[:3]
        listed = "; ".join(f"{where(int(seed))}: {losses[int(seed)]:.3g}" for seed in hardest)
        warnings.append(
            f"the seeds have a mean loss of {health.seed_loss:.3g}, expected at most {health.pool_loss:.3g}, the "
            f"median of the pool; check the hardest seeds ({listed}), and whether the model was trained for long on "
            "this pool"
        )
    return warnings


def _sample(store: SketchStore) -> tuple[np.ndarray, np.ndarray]:
    """Read the influence [n, S] and the loss [n] of the valid rows among evenly spread rows."""
    n = store.shard_range(store.shards[-1])[1]
    rows = np.unique(np.linspace(0, n - 1, min(_SAMPLE_ROWS, n)).round().astype(np.int64))
    rows = rows[gather(store, "valid", rows) != 0]
    return gather(store, "influence", rows), gather(store, "loss", rows)
