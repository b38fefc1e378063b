"""TAGCOS's matching pursuit beside its plain form, scikit-learn's, and random rows with the best weights.

    python -m benches.tagcos                            # writes benches/record/tagcos.json
    python -m benches.tagcos --run runs/a --name mine   # the sketches of a run

gdig's k-means clusters the rows first. gdig's pursuit reads the rows from the store. It runs over all clusters
(`ours`), and over some of them (`ours_of_some`). The other methods get those clusters in memory, at unit length, and
take as many rows of each cluster as gdig:

- plain: the same choice in NumPy, in float64. Each step multiplies all rows with the residual, builds the Gram matrix
  of the taken rows and solves for their weights anew, by SciPy's nnls where a weight is negative. The published code
  does this on a GPU in float32. In nearly all clusters the rows must be the same as gdig's (a near tie may fall the
  other way). Where they are the same, the residuals must agree up to float32's rounding of gdig's rows.
- scikit-learn: OrthogonalMatchingPursuit, whose weights may be negative and have no ridge. It chooses other rows, by
  the absolute value of the product, and solves an easier problem.
- random: as many rows drawn from the cluster, with the best weights that are not negative, under the same ridge.

A distance is |mean - weighted sum| / |mean|, averaged over the clusters.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cholesky, solve_triangular
from scipy.optimize import nnls
from sklearn.linear_model import OrthogonalMatchingPursuit

from benches.neighbours import Times, make, sketches
from benches.shared.machine import ROOT, core_machine
from benches.shared.memory import resident, watch
from gdig.kmeans import KMeans
from gdig.selection.methods.tagcos import RIDGE, TOLERANCE, TagcosRows, tagcos_rows
from gdig.store.sketches import INVALID_LABEL, SketchStore
from gdig.store.tensor_file import write_tensors

RECORD = ROOT / "benches" / "record" / "tagcos.json"

Rows = NDArray[np.float64]


class Matched(NamedTuple):
    """Places in the cluster, in the order taken, and their weights."""

    places: NDArray[np.int64]
    weights: NDArray[np.float64]


def write(x: NDArray[Any], labels: NDArray[np.uint32], folder: Path, step: int = 16_384) -> SketchStore:
    with SketchStore.create(folder / "sweep", x.shape[1], dtype=x.dtype.name, rows_per_shard=step) as store:
        store.append(x)
    write_labels(labels, folder / "labels", step)
    return store


def write_labels(labels: NDArray[np.uint32], folder: Path, step: int = 16_384) -> None:
    for shard, start in enumerate(range(0, len(labels), step)):
        tensors = {"labels": labels[start : start + step]}
        write_tensors(folder / f"{shard:08d}.safetensors", tensors, {"first_row": str(start)})


def best_weights(gram: Rows, aims: Rows) -> Rows:
    """w >= 0 of least w' gram w - 2 w' aims; a ridge is in `gram`."""
    weights = np.linalg.solve(gram, aims)
    if (weights >= 0).all():
        return weights
    lower = cholesky(gram, lower=True)
    return nnls(lower.T, solve_triangular(lower, aims, lower=True))[0]


def plain(x: Rows, quota: int) -> Matched:
    mean, ridge = x.mean(0), RIDGE * (x**2).sum(1).mean()
    taken: list[int] = []
    weights, residual = np.zeros(0), mean
    while len(taken) < quota and np.linalg.norm(residual) > TOLERANCE * np.linalg.norm(mean):
        products = x @ residual
        products[taken] = -np.inf
        best = int(products.argmax())
        if products[best] <= 0:
            break
        taken.append(best)
        rows = x[taken]
        weights = best_weights(rows @ rows.T + ridge * np.eye(len(taken)), rows @ mean)
        residual = mean - weights @ rows
    return Matched(np.array(taken, np.int64), weights)


def scikit_learn(x: Rows, quota: int) -> Matched:
    pursuit = OrthogonalMatchingPursuit(n_nonzero_coefs=min(quota, x.shape[1]), fit_intercept=False)
    weights = pursuit.fit(x.T, x.mean(0)).coef_
    places = np.flatnonzero(weights)
    return Matched(places, weights[places])


def drawn(x: Rows, quota: int, rng: np.random.Generator) -> Matched:
    places = rng.choice(len(x), quota, replace=False)
    rows, ridge = x[places], RIDGE * (x**2).sum(1).mean()
    try:
        return Matched(places, best_weights(rows @ rows.T + ridge * np.eye(quota), rows @ x.mean(0)))
    except LinAlgError as error:  # a ridge above 0 rules that out
        raise SystemExit(f"random rows: {error}") from None


def distance(x: Rows, taken: Matched) -> float:
    mean = x.mean(0)
    return float(np.linalg.norm(mean - taken.weights @ x[taken.places]) / np.linalg.norm(mean))


def compared(clusters: list[Rows], ours: list[Matched], theirs: list[Matched]) -> dict[str, Any]:
    """Check that gdig and the plain form agree."""
    same, worst = 0, 0.0
    for x, our_rows, plain_rows in zip(clusters, ours, theirs, strict=True):
        if not np.array_equal(our_rows.places, plain_rows.places):
            continue
        same += 1
        # Our rows' numbers are off by 2^-23 of themselves, rows and their mean so by less than 2^-23, products of two
        # by less than 2^-22: k weights w by |d w| < 2^-22 (sqrt(k) + k |w|) / (ridge + the Gram matrix's smallest
        # eigenvalue). The residual r changes along d w by ridge |w| |d w| / |r|, since without a ridge it would be
        # least there. Twice that, for the second order and what float64 rounds.
        k, length = len(our_rows.places), float(np.linalg.norm(our_rows.weights))
        norm = float(np.linalg.norm(x.mean(0)))
        off = abs(distance(x, our_rows) - distance(x, plain_rows)) * norm
        bound = 2 * length * 2.0**-22 * (k**0.5 + k * length) / (distance(x, plain_rows) * norm)
        worst = max(worst, off / bound)
    if worst > 1 or same < 0.95 * len(clusters):
        raise SystemExit(f"{same} of {len(clusters)} clusters as the plain form; distances off by {worst:.2g} bounds")
    return {"clusters_with_the_same_rows": same, "largest_difference_in_bounds": worst}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, help="number of rows (default: 200,000; with --run: all)")
    parser.add_argument("--run", type=Path, help="take the sketches of this run directory")
    parser.add_argument("--name", help="name of the rows in the record (default: the run directory's)")
    parser.add_argument("--dim", type=int, default=512, help="columns of the rows, without --run")
    parser.add_argument("--clusters", type=int, default=512)
    parser.add_argument("--budget", type=float, default=0.05, help="share of the rows")
    parser.add_argument("--some", type=int, default=64, help="number of clusters for the other methods")
    parser.add_argument(
        "--threads",
        type=int,
        default=os.cpu_count() or 1,
        help="threads of gdig; the other methods use OMP_NUM_THREADS",
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--record", type=Path, default=RECORD)
    arguments = parser.parse_args()
    x = sketches(arguments.run, arguments.rows) if arguments.run else make(arguments.rows or 200_000, arguments.dim)
    what = arguments.name or (arguments.run.name if arguments.run else "around 256 centres")
    labels = KMeans(arguments.clusters, unit_normalize=True, n_threads=arguments.threads).fit(x).predict(x)
    budget = round(arguments.budget * len(x))
    names = ("ours", "ours_of_some", "plain", "scikit_learn", "random")
    times = {name: Times() for name in names}
    with tempfile.TemporaryDirectory() as folder:
        store = write(x, labels, Path(folder))

        def ours(labels: str = "labels", budget: int = budget) -> TagcosRows:
            return tagcos_rows(store, Path(folder) / labels, budget, 0, n_threads=arguments.threads)

        before = resident()
        with watch() as peak:
            pursued = ours()
        # Some of the clusters that give rows: the smallest may give none.
        rng = np.random.default_rng(0)
        some = np.sort(rng.permutation(np.unique(labels[pursued.rows]))[: arguments.some])
        members = [np.flatnonzero(labels == label) for label in some]
        clusters = [x[rows].astype(np.float64) for rows in members]
        for rows in clusters:
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        quotas = [int((labels[pursued.rows] == label).sum()) for label in some]
        write_labels(np.where(np.isin(labels, some), labels, np.uint32(INVALID_LABEL)), Path(folder) / "some")
        others: dict[str, Callable[[Rows, int], Matched]] = {
            "plain": plain,
            "scikit_learn": scikit_learn,
            "random": lambda x, quota: drawn(x, quota, rng),
        }
        taken: dict[str, list[Matched]] = {}
        for _ in range(arguments.repeats):
            times["ours"].take(ours)
            times["ours_of_some"].take(lambda: ours("some", sum(quotas)))
            for name, take in others.items():
                taken[name] = times[name].take(lambda take=take: list(map(take, clusters, quotas)))
    taken["ours"] = taken["ours_of_some"] = []
    for label, rows in zip(some, members, strict=True):
        mine = (labels[pursued.rows] == label) & pursued.matched
        taken["ours"].append(Matched(np.searchsorted(rows, pursued.rows[mine]), pursued.weights[mine]))
    results: dict[str, Any] = {}
    for name in names:
        facts, count = times[name].facts(), pursued.clusters if name == "ours" else len(some)
        mean, each = float(np.mean(list(map(distance, clusters, taken[name])))), facts["cpu_seconds"] / count
        results[name] = facts | {"clusters": count, "cpu_seconds_a_cluster": each, "distance": mean}
        print(f"{name:>13}  {facts['seconds']:7.2f} s for {count} clusters, CPU {1e3 * each:8.2f} ms each", end="")
        print(f"; distance {mean:.4f} in {len(some)} of them", flush=True)
    results["ours"] |= {"peak_bytes": peak.bytes, "peak_bytes_beside_the_rows": peak.bytes - before}
    results["plain"] |= compared(clusters, taken["ours"], taken["plain"])
    sizes = {"rows": len(x), "dim": x.shape[1], "dtype": x.dtype.name, "budget": budget, "threads": arguments.threads}
    facts = {"clusters": pursued.clusters, "largest_cluster": int(np.bincount(labels).max())}
    facts |= {"ended_early": pursued.ended_early, "residual": pursued.residual}
    record = json.loads(arguments.record.read_text()) if arguments.record.exists() else {}
    name = f"{what}, {len(x):,} x {x.shape[1]}, {pursued.clusters} clusters, {arguments.budget:.0%}"
    record[name] = {"machine": core_machine(), **sizes, **facts, "results": results}
    arguments.record.write_text(json.dumps(dict(sorted(record.items())), indent=2) + "\n")


if __name__ == "__main__":
    main()
