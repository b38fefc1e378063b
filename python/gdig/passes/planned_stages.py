"""What the stages of a run are expected to do, for the bars that show how far the whole run is.

The work is in tokens of a plain forward and backward pass. The factors below are the costs of a stage's token beside
that, as measured with a model of 135 million parameters on a CPU. Another model has other factors. The time left is
measured on the stage that runs, so an error of a factor counts for the stages to come alone.
"""

from __future__ import annotations

from typing import Literal

from gdig.errors import GdigError
from gdig.forecast import PlannedStage
from gdig.run.session import Workspace

EIGENVECTORS = 2000.0
"""Work of the eigenvectors of all layers; their time goes by layers, and the model is not loaded yet."""
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


def planned_stages(work: Workspace, last: Literal["fit", "sweep", "cluster"]) -> list[PlannedStage]:
    """Return the stages that a start has yet to finish, in order. They are empty when the model passes are done.

    Args:
        work: the workspace of rank 0.
        last: the last stage that the command asks for.
    """
    run = work.run
    if run.done("sweep") and not work.config.checkpoints:
        return []
    try:
        stages = [] if run.done("fit") else _fit(work)
        if last != "fit":
            stages += _sweep(work)
        if last == "cluster":
            stages += _cluster(work)
    except GdigError:  # the stage that needs the row, or the file, says what is wrong with it
        return []
    return stages


def _fit(work: Workspace) -> list[PlannedStage]:
    config, stages = work.config, []
    if not config.gradients:
        return []
    if config.inversion != "identity" and work.run.fit.curvature is None:
        sample = work.fit_sample[0]
        tokens = sum(map(len, sample))
        stages.append(PlannedStage("fit: factors", len(sample), FACTORS * tokens, tokens, partitioned=True))
        stages.append(PlannedStage("fit: eigenvectors", 1, EIGENVECTORS, partitioned=True))
        if config.inversion != "kfac":
            work_of_pass = EIGENVALUES * tokens
            stages.append(PlannedStage("fit: eigenvalues", len(sample), work_of_pass, tokens, partitioned=True))
    seeds = work.seed_examples
    if config.inversion == "cg":
        sample = work.sample("curvature", config.cg_rows)[0]
        products = len(seeds) * config.cg_iterations
        work_of_pass = PRODUCT * products * sum(map(len, sample))
        stages.append(PlannedStage("fit: conjugate gradients", products * len(sample), work_of_pass))
    else:
        probe = sum(map(len, work.sample("probe", config.probe_rows)[0]))
        stages.append(PlannedStage("fit: seeds", len(seeds), SEEDS * sum(map(len, seeds)) + PROBE * probe))
    return stages


def _sweep(work: Workspace) -> list[PlannedStage]:
    config, rows = work.config, len(work.candidates)
    fitted = work.run.done("fit") or config.inversion == "identity" or not config.gradients
    sample = (work.sample("probe", config.probe_rows) if fitted else work.fit_sample)[0]
    tokens = rows * sum(map(len, sample)) / len(sample)
    factor = SWEEP if config.gradients else FORWARD_SWEEP
    stages = [] if work.run.done("sweep") else [PlannedStage("sweep", rows, factor * tokens, tokens)]
    if not work.layout.seed_sketches.exists():
        seed_tokens = sum(map(len, work.seed_examples))
        stages.insert(0, PlannedStage("sweep: seeds", len(work.seed_examples), factor * seed_tokens, seed_tokens))
    if config.gradients and work.run.sweep.scale is None:
        probe_rows = min(rows, config.probe_rows)
        probe_tokens = tokens * probe_rows / rows
        stages.insert(0, PlannedStage("sweep: scale", probe_rows, factor * probe_tokens, probe_tokens))
    n = len(config.checkpoints)
    for number in range(1, n + 1):
        stages.append(PlannedStage(f"checkpoint {number} of {n}", rows, CHECKPOINT * tokens, tokens))
    return stages


def _cluster(work: Workspace) -> list[PlannedStage]:
    config, rows = work.config, len(work.candidates)
    trained = min(rows, _TRAIN_ROWS_A_CLUSTER * (config.n_clusters or 1))
    iterations = config.kmeans_max_iter
    return [
        PlannedStage("cluster: k-means", iterations, CLUSTER * trained * iterations),
        PlannedStage("cluster: labels", rows, CLUSTER * rows),
    ]
