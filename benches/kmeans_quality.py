"""The inertia of k-means from gdig's own start, beside faiss's and scikit-learn's: medians over random seeds.

    python -m benches.kmeans_quality               # writes benches/record/kmeans-quality.json

It needs `pip install 'gdig[bench]'`. `gdig`, `faiss` and `scikit_learn` do the same number of iterations over all rows,
each from its own start: k-means++ on a sample, random rows, greedy k-means++. `gdig_default` and `faiss_default` use
the libraries' own numbers of training rows and iterations. The rows are those of benches.kmeans, in a float16 and an
int8 store; the other libraries get the same numbers as float32. Inertia is over all rows, in float64.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benches.kmeans import as_float32, inertia, make
from benches.shared.machine import ROOT, core_machine
from gdig import KMeans

RECORD = ROOT / "benches" / "record" / "kmeans-quality.json"


def gdig(store: Any, x: NDArray[np.float32], k: int, random_seed: int, iterations: int) -> NDArray[np.float32]:
    return KMeans(k, random_state=random_seed, max_iter=iterations, tol=0, train_rows="all").fit(store).cluster_centers_


def gdig_default(store: Any, x: NDArray[np.float32], k: int, random_seed: int, iterations: int) -> NDArray[np.float32]:
    return KMeans(k, random_state=random_seed).fit(store).cluster_centers_


def faiss(store: Any, x: NDArray[np.float32], k: int, random_seed: int, iterations: int) -> NDArray[np.float32]:
    return faiss_default(store, x, k, random_seed, iterations, niter=iterations, max_points_per_centroid=len(x))


def faiss_default(
    store: Any, x: NDArray[np.float32], k: int, random_seed: int, iterations: int, **options: int
) -> NDArray[np.float32]:
    """25 iterations over 256 rows a centroid, from random rows."""
    import faiss

    kmeans = faiss.Kmeans(x.shape[1], k, seed=random_seed + 1, **options)
    kmeans.train(x)
    return kmeans.centroids


def scikit_learn(store: Any, x: NDArray[np.float32], k: int, random_seed: int, iterations: int) -> NDArray[np.float32]:
    from sklearn.cluster import KMeans as Peer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that it has not converged, which is intended
        return Peer(k, random_state=random_seed, n_init=1, max_iter=iterations, tol=0).fit(x).cluster_centers_


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--clusters", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--iterations", type=int, default=25, help="faiss's default")
    parser.add_argument("--random-seeds", type=int, default=5)
    names = ["gdig", "faiss", "scikit_learn", "gdig_default", "faiss_default"]
    parser.add_argument("--methods", nargs="*", choices=names, default=names)
    parser.add_argument("--output", type=Path, default=RECORD)
    arguments = parser.parse_args()
    record: dict[str, Any] = {"machine": core_machine(), "iterations": arguments.iterations, "tables": []}
    with tempfile.TemporaryDirectory() as directory:
        for dtype in ("float16", "int8"):
            store = make(Path(directory) / dtype, arguments.rows, arguments.dim, dtype)
            x = as_float32(store)
            for k in arguments.clusters:
                inertias: dict[str, list[float]] = {}
                for random_seed in range(arguments.random_seeds):
                    for name in arguments.methods:
                        centers = globals()[name](store, x, k, random_seed, arguments.iterations)
                        inertias.setdefault(name, []).append(inertia(x, centers))
                medians = {name: statistics.median(values) for name, values in inertias.items()}
                size = f"{dtype}, {arguments.rows} x {arguments.dim}, K = {k}"
                print(f"\n{size}: median inertia of {arguments.random_seeds} random seeds")
                for name, median in medians.items():
                    relative = median / next(iter(medians.values())) - 1
                    spread = f"{min(inertias[name]):.6e}..{max(inertias[name]):.6e}"
                    print(f"  {name:14} {median:.6e}  {relative:+.2e}  [{spread}]")
                table = {"dtype": dtype, "rows": arguments.rows, "dim": arguments.dim, "k": k, "inertia": inertias}
                record["tables"].append(table)
                arguments.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
