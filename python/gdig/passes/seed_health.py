"""Whether the seeds can rank the pool: what a finished sweep says of them, from a sample of its rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from gdig.run.record import SeedHealth
from gdig.store.gather import gather
from gdig.store.sketches import SketchStore

LEAST_RELIABILITY = 0.5
"""Below this, half of what distinguishes the rows is the draw of the seeds."""
_GOOD_RELIABILITY = 0.8
_ROWS = 4096


def seeds_wanted(health: SeedHealth, n_seeds: int) -> int:
    """Seeds of the same kind that would give a reliability of 0.8 (Spearman 1910, Brown 1910); -1 if none would."""
    good, r = _GOOD_RELIABILITY, health.reliability
    return math.ceil(n_seeds * good / (1 - good) * (1 - r) / r - 1e-9) if r > 0 else -1


def look_at_seeds(store: SketchStore, losses: Sequence[float]) -> SeedHealth:
    """Look at up to 4,096 rows of a finished sweep, evenly spread.

    Args:
        store: the sweep.
        losses: of the seeds, [S].
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
    """Cronbach's alpha of votes [n, S], not below 0; NaN when nothing varies or there is one seed."""
    n_seeds = votes.shape[1]
    if len(votes) < 2 or n_seeds < 2:
        return math.nan
    total = votes.sum(1, dtype=np.float64).var()
    share = votes.mean(0, dtype=np.float64)
    if total == 0:
        return math.nan
    return max(0.0, float(n_seeds / (n_seeds - 1) * (1 - (share * (1 - share)).sum() / total)))


def warn_of_seeds(
    health: SeedHealth, losses: Sequence[float], loss_reduction: str, where: Callable[[int], str] = "seed {}".format
) -> list[str]:
    """What to tell the user of seeds that will not order the pool well.

    Args:
        health: as `look_at_seeds` found it.
        losses: of the seeds, [S].
        loss_reduction: sums over examples of different lengths are not compared.
        where: says where a seed stands, by its number.
    """
    found, n_seeds = [], len(losses)
    if health.reliability < LEAST_RELIABILITY:
        wanted = seeds_wanted(health, n_seeds)
        advice = f"about {wanted} of the same kind would repeat 80 %" if wanted > 0 else "they agree on nothing"
        found.append(
            f"the seeds differ on what helps them: another {n_seeds} like them would repeat "
            f"{health.reliability:.0%} of what their agreement says of the pool ({advice}); use more seeds, or a model "
            "that knows the task better"
        )
    if loss_reduction == "mean" and health.seed_loss - health.seed_loss_error > health.pool_loss:
        hardest = np.argsort(-np.asarray(losses), kind="stable")[:3]
        named = "; ".join(f"{where(int(seed))}: {losses[int(seed)]:.3g}" for seed in hardest)
        found.append(
            f"the model finds the seeds harder (mean loss {health.seed_loss:.3g}) than the pool's middle row "
            f"({health.pool_loss:.3g}): are some of them spoiled (the hardest: {named}), or was the model trained on "
            "this pool for long, so that it knows its bad rows by heart?"
        )
    return found


def _sample(store: SketchStore) -> tuple[np.ndarray, np.ndarray]:
    """Influence [n, S] and loss [n] of the valid ones among evenly spread rows, read where they stand."""
    n = store.shard_range(store.shards[-1])[1]
    rows = np.unique(np.linspace(0, n - 1, min(_ROWS, n)).round().astype(np.int64))
    rows = rows[gather(store, "valid", rows) != 0]
    return gather(store, "influence", rows), gather(store, "loss", rows)
