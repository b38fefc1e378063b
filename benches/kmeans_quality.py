"""How good is the result: inertia from our own start beside faiss's default and scikit-learn's, medians over seeds.

    python benches/kmeans_quality.py               # writes benches/record/kmeans-quality.json

Needs `pip install 'gdig[bench]'`. Each method as a user calls it: its own start (ours k-means++ on a sample, faiss's
random rows, scikit-learn's k-means++), the same number of iterations over all rows, and else its defaults. Rows are
those of benches/kmeans.py in a float16 and an int8 store; peers get the same numbers as float32. Inertia is over all
rows, in float64.
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
from kmeans import as_float32, inertia, machine, make
from numpy.typing import NDArray

from gdig import KMeans

RECORD = Path(__file__).parent / "record" / "kmeans-quality.json"


def ours(store: Any, k: int, seed: int, iterations: int) -> NDArray[np.float32]:
    return KMeans(k, seed=seed, max_iter=iterations, tol=0, train_rows="all").fit(store).cluster_centers_


def faiss(x: NDArray[np.float32], k: int, seed: int, iterations: int) -> NDArray[np.float32]:
    import faiss

    kmeans = faiss.Kmeans(x.shape[1], k, niter=iterations, seed=seed + 1, max_points_per_centroid=len(x))
    kmeans.train(x)
    return kmeans.centroids


def scikit_learn(x: NDArray[np.float32], k: int, seed: int, iterations: int) -> NDArray[np.float32]:
    from sklearn.cluster import KMeans as Peer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged, which is meant
        return Peer(k, random_state=seed, n_init=1, max_iter=iterations, tol=0).fit(x).cluster_centers_


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--clusters", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--iterations", type=int, default=25, help="faiss's default")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--peers", nargs="*", default=["faiss", "scikit_learn"])
    parser.add_argument("--output", type=Path, default=RECORD)
    arguments = parser.parse_args()
    record: dict[str, Any] = {"machine": machine(), "iterations": arguments.iterations, "tables": []}
    with tempfile.TemporaryDirectory() as directory:
        for dtype in ("float16", "int8"):
            store = make(Path(directory) / dtype, arguments.rows, arguments.dim, dtype)
            x = as_float32(store)
            for k in arguments.clusters:
                found: dict[str, list[float]] = {}
                for seed in range(arguments.seeds):
                    methods = {"gdig": (ours, store), **{peer: (globals()[peer], x) for peer in arguments.peers}}
                    for name, (method, rows) in methods.items():
                        centers = method(rows, k, seed, arguments.iterations)
                        found.setdefault(name, []).append(inertia(x, centers))
                medians = {name: statistics.median(values) for name, values in found.items()}
                print(
                    f"\n{dtype}, {arguments.rows} x {arguments.dim}, K = {k}: median inertia of {arguments.seeds} seeds"
                )
                for name, median in medians.items():
                    relative = median / medians["gdig"] - 1
                    print(
                        f"  {name:14} {median:.6e}  {relative:+.2e}  [{min(found[name]):.6e}..{max(found[name]):.6e}]"
                    )
                table = {"dtype": dtype, "rows": arguments.rows, "dim": arguments.dim, "k": k, "inertia": found}
                record["tables"].append(table)
                arguments.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
