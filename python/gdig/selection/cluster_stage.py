"""Cluster the sketches: k-means over the sweep's shards, and each row's label and distance beside them."""

from __future__ import annotations

from typing import Any

import numpy as np

from gdig.config.budget import Limit, parse_budget
from gdig.config.config import Config
from gdig.distributed.kmeans import KMeansPeers
from gdig.distributed.ranks import Ranks
from gdig.errors import AmountError, ConfigError, StoreError
from gdig.kmeans import KMeans
from gdig.kmeans.labels import label_damage
from gdig.nouns import counted
from gdig.resampling import label_counts
from gdig.run.origin import cluster_origin
from gdig.run.session import Workspace
from gdig.selection.survey import Survey, survey
from gdig.store.sketches import SketchStore
from gdig.store.tensor_file import CheckedFile, Damage

DEFAULT_CLUSTERS = 512
"""Clusters of the G-DIG paper."""


def resolve_clusters(config: Config, pool: Survey, limit: Limit) -> int:
    """Return how many clusters a run makes.

    Raises:
        ConfigError: when no row is valid, or n_clusters is more than the valid rows or than train_rows.
    """
    valid = pool.valid
    if valid == 0:
        raise ConfigError(
            "candidates: no row is valid, expected at least one to cluster; check the rows (gdig preview) and the "
            "model's weights"
        )
    n = config.n_clusters
    if n is None:
        per_row = max(1.0, pool.reach(0, "tokens") / valid) if limit.unit == "tokens" else 1
        n = max(1, min(DEFAULT_CLUSTERS, int(limit.amount / per_row), valid))
    if n > valid:
        raise too_many_clusters(n, counted(valid, "valid row"))
    if isinstance(config.train_rows, int) and config.train_rows < n:
        raise too_few_train_rows(config.train_rows, n)
    return n


def too_many_clusters(n: int, rows: str) -> AmountError:
    """Return the error of more clusters than rows. `rows`: how many there are, and of which kind."""
    return AmountError(f"n_clusters={n}: expected at most {rows.split()[0]}, because the pool has {rows}")


def too_few_train_rows(train_rows: int, n: int) -> ConfigError:
    """Return the error of fewer training rows than clusters."""
    return ConfigError(f"train_rows={train_rows}: expected at least {n}, one a cluster")


def ensure_clusters(work: Workspace, store: SketchStore, pool: Survey, limit: Limit) -> None:
    """Make clusters and labels, unless the run has them for the number of clusters that the options ask for.

    Of a pool that has grown, the clusters are those of the first files' rows (`grown_clusters` keep), or of all rows of
    this start (again). Labels are of all rows of the run.
    """
    run, config = work.run, work.config
    rows = len(work.candidates) if config.grown_clusters == "again" else work.first_rows
    if rows < len(work.candidates):
        first = store.masked(np.arange(len(store)) < rows)
        of_first = survey(first, pool.judge)
        # A share is of these rows. An amount may be more than they hold: the budget is of the whole pool.
        if (budget := parse_budget(config.budget)).unit == "share":
            limit = budget.limit(rows, of_first.all_tokens)
        n_clusters = resolve_clusters(config, of_first, limit)
    else:
        n_clusters = resolve_clusters(config, pool, limit)
    whole = SketchStore.open(work.layout.sweep, store.made_from)
    has_clusters = run.cluster.n_clusters is not None and run.record.stages.cluster is not None
    if has_clusters and (run.cluster.n_clusters, run.cluster.rows) != (n_clusters, rows):
        if run.cluster.n_clusters != n_clusters:
            reason = f"the budget asks for {n_clusters} clusters, the run has {run.cluster.n_clusters}"
        else:
            reason = f"the clusters are of the first {run.cluster.rows:,} rows, and {rows:,} are asked for"
        work.progress.say(f"cluster: {reason}")
        run.start_over("cluster")
    elif run.done("cluster") and _clusters_are_sound(work, whole, n_clusters):
        return
    # Files of an interrupted stage say what they were made from; k-means continues from them only if that is the same.
    run.require_writable("cluster")
    with run.running("cluster"):
        run.update("cluster", rows=rows)
        run.update("cluster", **cluster_sketches(work, whole, n_clusters, rows))


def _clusters_are_sound(work: Workspace, store: SketchStore, n_clusters: int) -> bool:
    """Read the files of the clusters, and warn of each that cannot be used; label files among them are removed."""
    layout, warn = work.layout, work.progress.warn
    centroids = _centroids(work, cluster_origin(work.run.record))
    if (damage := centroids.damage()) is None:
        try:
            kmeans = KMeans.load(centroids.path, centroids.made_from)
            if kmeans.cluster_centers_.shape == (n_clusters, store.dim):
                damages, absent = label_damage(store, len(store), layout.labels, kmeans)
                missing = [f"{layout.labels / store.shard_path(shard).name}: is missing" for shard in absent]
                for what in (*missing, *(file.what for file in damages.values())):
                    warn(f"{what}; the labels are made again")
                return not damages and not absent
            damage = Damage("damaged", f"{centroids.path}: expected {n_clusters} centroids of {store.dim} columns")
        except StoreError as error:
            damage = Damage("damaged", str(error))
    warn(f"{damage.what}; the clusters are made again")
    return False


def _centroids(work: Workspace, origin: str) -> CheckedFile:
    return work.layout.checked(work.layout.centroids, origin)


def cluster_sketches(work: Workspace, store: SketchStore, n_clusters: int, rows: int) -> dict[str, Any]:
    """Fit k-means on the sketches of the first `rows` rows, unless the run has the centroids, and label every row.

    The run directory gets the centroids, and labels and distances split as the sweep's shards are. While k-means
    iterates, its resume file lets a killed run continue.

    Returns:
        Fields of the ClusterRecord: n_clusters, n_iter, inertia of the training rows, largest, at_most_one_row.
    """
    config, progress, layout = work.config, work.progress, work.layout
    # The default sample is small: rank 0 fits it on all cores before the other ranks would have begun.
    ranks = work.ranks if config.train_rows is not None else Ranks()
    origin = cluster_origin(work.run.record)
    facts = _fitted(work, n_clusters, origin)
    if facts is None:
        if ranks.world > 1:
            ranks.task("centroids", n_clusters=n_clusters, rows=rows)
        kmeans = fit_centroids_on_ranks(work, n_clusters, rows, ranks)
        centroids = _centroids(work, origin)
        kmeans.save(centroids.path, centroids.made_from)
        layout.kmeans_resume_file.unlink(missing_ok=True)
        facts = {"n_clusters": n_clusters, "n_iter": kmeans.n_iter_, "inertia": float(kmeans.inertia_)}
    work.ranks.task("labels", origin=origin)
    label_rows_on_ranks(work, origin)
    sizes = np.zeros(n_clusters, np.int64)
    counted = label_counts(layout.labels)
    sizes[: len(counted)] = counted
    single = int((sizes <= 1).sum())
    if single > n_clusters // 2 and n_clusters > 1 and sizes.sum() > 4 * n_clusters:
        progress.warn(
            f"cluster: {single} of {n_clusters} clusters hold at most one row, the largest holds {sizes.max()}: "
            "a few very long gradients stand apart; unit_normalize clusters by direction instead"
        )
    return {**facts, "largest": int(sizes.max()), "at_most_one_row": single}


def _fitted(work: Workspace, n_clusters: int, origin: str) -> dict[str, Any] | None:
    """What the record says of centroids that the run has: their labels were lost, or rows were appended."""
    cluster, centroids = work.run.cluster, _centroids(work, origin)
    if cluster.n_clusters != n_clusters or cluster.n_iter is None or centroids.damage() is not None:
        return None
    return {"n_clusters": n_clusters, "n_iter": cluster.n_iter, "inertia": cluster.inertia}


def fit_centroids_on_ranks(work: Workspace, n_clusters: int, rows: int, ranks: Ranks | None = None) -> KMeans:
    """Fit k-means on the sketches of the first `rows` rows.

    Every one of `ranks` calls this; the KMeans of rank 0 is fitted.
    """
    config, ranks = work.config, ranks or work.ranks
    store = SketchStore.open(work.layout.sweep)
    if rows < len(store):
        store = store.masked(np.arange(len(store)) < rows)
    kmeans = KMeans(
        n_clusters,
        max_iter=config.kmeans_max_iter,
        tol=config.kmeans_tol,
        random_state=config.random_seed,
        train_rows=config.train_rows,
        unit_normalize=config.unit_normalize,
        n_threads=ranks.threads(config.threads),
    )
    resume_file = work.layout.kmeans_resume_file
    with work.progress.stage("cluster: k-means", config.kmeans_max_iter, "iterations") as bar:
        seen = 0

        def done(iteration: int, inertia: float, shift: float) -> None:
            nonlocal seen
            ranks.doing(f"cluster: k-means, iteration {iteration + 1}")
            if seen == 0:
                bar.skip(iteration - 1)  # those of an earlier start
            seen = iteration
            bar.advance(1, f"inertia {inertia:.4g}")

        if ranks.world == 1:
            kmeans.fit(store, callback=done, resume_file=resume_file)
        else:
            kmeans.fit_shared(store, KMeansPeers(ranks, n_clusters * store.dim), done, resume_file=resume_file)
    kmeans.n_threads = config.threads  # the stored parameters do not depend on the number of ranks
    return kmeans


def label_rows_on_ranks(work: Workspace, origin: str) -> None:
    """Label the rows of this rank's share of the shards. Every rank calls this, after the centroids are stored.

    Args:
        work: the workspace of this rank.
        origin: of the clusters (gdig.run.origin).
    """
    ranks, layout = work.ranks, work.layout
    store = SketchStore.open(work.layout.sweep)
    centroids = _centroids(work, origin)
    kmeans = KMeans.load(centroids.path, centroids.made_from)
    kmeans.n_threads = ranks.threads(work.config.threads)
    shards, seen = ranks.share(store.n_shards), 0
    ranks.doing(f"cluster: labels of shards {shards.start} to {shards.stop - 1}")
    with work.progress.stage("cluster: labels", len(store)) as shown:
        bar = ranks.shared_bar(shown)

        def labelled(done: int, total: int) -> None:
            nonlocal seen
            bar.advance(done - seen)
            seen = done

        kmeans.write_labels(store, layout.labels, callback=labelled, shards=shards)
        ranks.gather(None, bar)
