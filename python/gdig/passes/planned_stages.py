"""What the stages of a run are expected to do, for the bars that show how far the whole run is.

The work is in tokens of a plain forward and backward pass. The factors below are the costs of a stage's token beside
that, as measured with a model of 135 million parameters on a CPU. Another model has other factors. A stage that was
measured goes by its own speed (`forecast.Forecast`), so an error of a factor counts for other stages to come alone.
"""

from __future__ import annotations

from typing import Literal

from gdig.errors import GdigError
from gdig.forecast import PlannedStage
from gdig.passes.shards import rows_on_disk
from gdig.run.origin import checkpoint_rows_origin, rows_origin
from gdig.run.record import RunRecord
from gdig.run.session import Workspace

FACTORS = 1.1
"""Work of a token in the first pass of the fit."""
EIGENVALUES = 1.4
"""Work of a token in the second pass of the fit."""
SEEDS = 5.0
"""Work of a seed's token: its pass, and the low-rank forms of all layers."""
PROBE = 1.7
"""Work of a token of the probe rows, which pass one by one before the seeds."""
PRODUCT = 4 / 3
"""Work of a token in a product of conjugate gradients: four forward passes, where a plain pass is three."""
SWEEP = 1.05
"""Work of a token in the sweep."""
FORWARD_SWEEP = 1 / 3
"""Work of a token in a sweep without gradients: a forward pass."""
CHECKPOINT = 1.34
"""Work of a token in the pass over a training checkpoint with whole layers, measured with 110 million parameters."""
CLUSTER = 1e-3
"""Work of a row in an iteration of k-means, and of its label."""
_TRAIN_ROWS_A_CLUSTER = 1024


Last = Literal["fit", "sweep", "cluster"]


def planned_stages(work: Workspace, last: Last) -> list[PlannedStage]:
    """Return all stages of a run up to `last`, in order, each with the share that earlier starts have done.

    The work of a stage is the same at every start, so that the share that is done does not fall at one. The list is
    empty when all model passes and the clusters are done.

    Args:
        work: the workspace of rank 0.
        last: the last stage that the command asks for.
    """
    if _all_done(work, last):
        return []
    try:
        sample = _fit_sample(work)
        stages = _fit(work, sample)
        if last != "fit":
            rows, tokens = sample if sample is not None else _probe(work)
            stages += _sweep(work, len(work.candidates) * tokens / rows)
        if last == "cluster":
            stages += _cluster(work)
    except GdigError:  # the stage that needs the row, or the file, says what is wrong with it
        return []
    return stages


def _all_done(work: Workspace, last: Last) -> bool:
    run = work.run
    if last == "fit" or not run.done("fit"):
        return run.done("fit")
    if not run.done("sweep") or not all(
        checkpoint_share(work, work.run.record, path) == 1 for path in work.config.checkpoints
    ):
        return False
    return last == "sweep" or run.done("cluster")


def _fit_sample(work: Workspace) -> tuple[int, int] | None:
    """Rows and tokens of the sample of the curvature; None for a run without curvature.

    The record of a curvature has both, so a later start reads no sample.
    """
    config, curvature = work.config, work.run.fit.curvature
    if config.inversion == "identity" or not config.gradients:
        return None
    if curvature is not None and not curvature.invalid:
        return curvature.examples, curvature.tokens
    examples = work.fit_sample[0]
    return len(examples), sum(map(len, examples))


def _probe(work: Workspace) -> tuple[int, int]:
    """Rows and tokens of the probe rows."""
    probe = work.sample("probe", work.config.probe_rows)[0]
    return len(probe), sum(map(len, probe))


def _fit(work: Workspace, sample: tuple[int, int] | None) -> list[PlannedStage]:
    config, run = work.config, work.run
    if not config.gradients:
        return []
    stages = []
    if sample is not None:
        from gdig.passes.eigenvector_work import eigenvector_work  # opens transformers

        (rows, tokens), done = sample, float(run.fit.curvature is not None)
        n = max(1, len(run.fit.partitions))
        passes = {"fit: factors": FACTORS, "fit: eigenvalues": EIGENVALUES}
        for name, factor in list(passes.items())[: 1 if config.inversion == "kfac" else 2]:
            stages.append(PlannedStage(name, rows, factor * tokens, tokens, n, done, repeated=1 / factor))
        stages.insert(1, PlannedStage("fit: eigenvectors", 1, eigenvector_work(config), 0, n, done, apart=True))
    seeds, done = work.seed_examples, float(run.done("fit"))
    if config.inversion == "cg":
        of_products = work.sample("curvature", config.cg_rows)[0]
        products = len(seeds) * config.cg_iterations
        work_of_pass = PRODUCT * products * sum(map(len, of_products))
        units = products * len(of_products)
        stages.append(PlannedStage("fit: conjugate gradients", units, work_of_pass, done=done))
    else:
        work_of_pass = SEEDS * sum(map(len, seeds)) + PROBE * _probe(work)[1]
        stages.append(PlannedStage("fit: seeds", len(seeds), work_of_pass, done=done))
    return stages


def _sweep(work: Workspace, tokens: float) -> list[PlannedStage]:
    """The stages of the sweep. `tokens`: expected in the pool."""
    config, layout, rows, sweep = work.config, work.layout, len(work.candidates), work.run.sweep
    factor, stages = SWEEP if config.gradients else FORWARD_SWEEP, []
    begun = sweep.scale is not None
    if config.gradients:
        probe_rows = min(rows, config.probe_rows)
        probe = tokens * probe_rows / rows
        stages.append(PlannedStage("sweep: scale", probe_rows, factor * probe, probe, done=float(begun)))
    seeds, seed_tokens = len(work.seed_examples), sum(map(len, work.seed_examples))
    done = float(layout.seed_sketches.exists())
    stages.append(PlannedStage("sweep: seeds", seeds, factor * seed_tokens, seed_tokens, done=done))
    swept = sweep.rows if work.run.done("sweep") else None
    done = rows_on_disk(layout.sweep, rows_origin(work.run.record), rows, swept) / rows if begun else 0.0
    stages.append(PlannedStage("sweep", rows, factor * tokens, tokens, done=done))
    n = len(config.checkpoints)
    for number, path in enumerate(config.checkpoints, 1):
        title, done = f"checkpoint {number} of {n}", checkpoint_share(work, work.run.record, path)
        work_of_pass, of_seeds = CHECKPOINT * seed_tokens, float(done > 0)
        stages.append(PlannedStage(f"{title}: seeds", seeds, work_of_pass, seed_tokens, done=of_seeds))
        stages.append(PlannedStage(title, rows, CHECKPOINT * tokens, tokens, done=done))
    return stages


def checkpoint_share(work: Workspace, record: RunRecord, path: str) -> float:
    """Return the share of the rows that are swept by a training checkpoint, as far as its path tells.

    Args:
        work: the pool and the run directory.
        record: of the run.
        path: of the checkpoint.
    """
    sweep, rows = record.stages.sweep, len(work.candidates)
    for key, checkpoint in sweep.checkpoints.items() if sweep is not None else ():
        if checkpoint.path == path and sweep is not None:
            swept = sweep.rows if checkpoint.state == "done" else None
            origin = checkpoint_rows_origin(record, key)
            return rows_on_disk(work.layout.checkpoint(key).shards, origin, rows, swept) / rows
    return 0.0


def _cluster(work: Workspace) -> list[PlannedStage]:
    config, rows = work.config, len(work.candidates)
    trained = min(rows, _TRAIN_ROWS_A_CLUSTER * (config.n_clusters or 1))
    iterations, done = config.kmeans_max_iter, float(work.run.done("cluster"))
    return [
        PlannedStage("cluster: k-means", iterations, CLUSTER * trained * iterations, done=done, apart=True),
        PlannedStage("cluster: labels", rows, CLUSTER * rows, done=done, apart=True),
    ]
