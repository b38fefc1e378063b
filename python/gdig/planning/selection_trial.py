"""A trial of k-means, of the search for neighbours, and of reading rows: what clusters and selection cost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gdig.config.budget import Limit, parse_budget
from gdig.config.config import Config
from gdig.kmeans.model import TRAIN_ROWS_PER_CENTROID, KMeans
from gdig.planning.pool_size import PoolSize
from gdig.planning.stopwatch import Stopwatch
from gdig.selection.cluster_stage import DEFAULT_CLUSTERS
from gdig.selection.methods import METHODS

_ROWS, _CLUSTERS, _ITERATIONS = 4096, 128, 2


@dataclass(frozen=True)
class SelectionRates:
    """Seconds after the sweep.

    Attributes:
        cluster_s: of k-means and labels; None when the method needs no clusters, 0 when the run has them.
        select_s: of the search for neighbours, and of reading the chosen rows.
        n_clusters: clusters.
    """

    cluster_s: float | None
    select_s: float
    n_clusters: int


def expected_limit(config: Config, pool: PoolSize) -> Limit:
    """Return what the option `budget` allows.

    Raises:
        ConfigError: when the budget is more than the pool holds; of tokens, when all rows were read.
    """
    budget = parse_budget(config.budget)
    tokens = round(pool.tokens)
    if budget.unit == "tokens" and pool.sampled < pool.rows:
        return Limit("tokens", min(int(budget.amount), tokens))  # the run counts them before its first pass
    return budget.limit(pool.rows, tokens)


def try_selection(config: Config, pool: PoolSize, watch: Stopwatch, to_cluster: bool) -> SelectionRates:
    """Measure a few iterations of k-means over random rows, and take what a run does in proportion.

    Args:
        config: method, budget, and the options of k-means.
        pool: rows and tokens.
        watch: measures.
        to_cluster: whether clusters are to come; those that a run has take no time.
    """
    limit = expected_limit(config, pool)
    chosen = limit.amount if limit.unit == "rows" else limit.amount / pool.mean_tokens
    method = METHODS[config.method]
    n_clusters = config.n_clusters or max(1, min(DEFAULT_CLUSTERS, int(chosen), pool.rows))
    select_s = 2 * chosen * pool.encode_s
    no_clusters_s = 0.0 if method.clusters else None
    if not to_cluster and not method.neighbours(config):
        return SelectionRates(no_clusters_s, select_s, n_clusters)
    rows, clusters = min(pool.rows, _ROWS), max(1, min(n_clusters, _CLUSTERS, pool.rows // 2))
    x = np.random.default_rng(0).standard_normal((rows, config.projection_dim)).astype(np.float16)
    fit = KMeans(clusters, max_iter=_ITERATIONS, tol=0.0, n_threads=config.threads)
    begun = watch.now()
    fit.fit(x)
    a_pair = (watch.now() - begun) / (rows * clusters * fit.n_iter_)  # k-means++ is in it, as in a run
    if method.neighbours(config):
        select_s += pool.rows**2 * a_pair
    if not to_cluster:
        return SelectionRates(no_clusters_s, select_s, n_clusters)
    if config.train_rows == "all":
        trained = pool.rows
    else:
        trained = min(pool.rows, config.train_rows or TRAIN_ROWS_PER_CENTROID * n_clusters)
    pairs = (trained * config.kmeans_max_iter + pool.rows) * n_clusters
    return SelectionRates(pairs * a_pair, select_s, n_clusters)
