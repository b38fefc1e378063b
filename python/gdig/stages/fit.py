"""Fit: the curvature on a sample of the pool, then the seeds' preconditioned gradients; both are kept as files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from gdig.data.tokens import Example
from gdig.errors import RunError
from gdig.stages.curvature import Factors, fit_curvature
from gdig.stages.seeds import SeedFactors, SeedReport, precondition_seeds
from gdig.workspace import Workspace

_POOR_CORRELATION = 0.98
"""Below this the factored scores order candidates noticeably otherwise than the exact ones do."""


def fit_stage(work: Workspace) -> None:
    """Leave curvature/<layer>.safetensors and seeds/<layer>.safetensors, and the reports in run.json."""
    config, run, model = work.config, work.run, work.model
    seeds = work.seed_examples  # first: an unusable seed is the quickest thing to find
    factors: list[Factors] | list[None]
    if config.inversion == "identity":
        factors = [None] * len(model.layers)
    elif run.stage("fit").get("curvature") is not None:
        factors = [Factors.load(_file(run.path, "curvature", layer.name), layer.device) for layer in model.layers]
    else:
        examples, rows = work.sample("curvature", config.fit_rows)
        factors, report = fit_curvature(model, examples, rows.astype(np.uint64), config, work.progress)
        for layer, f in zip(model.layers, factors, strict=True):
            f.save(_file(run.path, "curvature", layer.name), layer.name)
        run.record("fit", curvature=asdict(report))
        if report.invalid:
            work.progress.warn(f"fit: {report.invalid} rows of the sample have a loss that is not finite; left out")
    probe, _ = work.sample("probe", config.probe_rows)
    joined, seed_report = precondition_seeds(
        model, factors, seeds, probe, config, work.progress, where=lambda i: f"seeds: {work.seed_corpus.where(i)}"
    )
    for layer, s in zip(model.layers, joined, strict=True):
        s.save(_file(run.path, "seeds", layer.name), layer.name)
    run.record("fit", seeds=asdict(seed_report), layers=[layer.name for layer in model.layers], dtype=str(model.dtype))
    _say(work, seeds, seed_report)


def read_seed_factors(work: Workspace) -> list[SeedFactors]:
    """Read what the fit left, in the order of the model's layers.

    Raises:
        RunError: when the fit ran in another precision (which "auto" makes of another device).
    """
    model = work.model
    fitted = work.run.stage("fit")["dtype"]
    if fitted != str(model.dtype):
        raise RunError(f"precision: the run was fitted in {fitted}, the model is now {model.dtype}; set precision")
    return [SeedFactors.load(_file(work.run.path, "seeds", layer.name), layer.device) for layer in model.layers]


def read_curvature(work: Workspace) -> Iterator[Factors]:
    """Read the layers' curvature, one at a time, in the order of the model's layers."""
    for layer in work.model.layers:
        yield Factors.load(_file(work.run.path, "curvature", layer.name), layer.device)


def _file(path: Path, directory: str, layer: str) -> Path:
    return path / directory / f"{layer}.safetensors"


def _say(work: Workspace, seeds: list[Example], report: SeedReport) -> None:
    say = work.progress.say
    say(
        f"fit: {len(seeds)} seeds, {report.columns} columns over {len(work.model.layers)} layers, "
        f"at least {report.least_energy:.1%} of each gradient's energy kept"
    )
    say(
        f"fit: factored against exact scores on {report.probe_rows} rows: relative error "
        f"{report.relative_error:.2g}, correlation {report.correlation:.4f}"
    )
    if report.correlation < _POOR_CORRELATION:
        work.progress.warn("the factored scores are far from the exact ones: raise seed_rank or seed_energy")
    repeated = len(seeds) - len({seed.hash for seed in seeds})
    if repeated:
        work.progress.warn(f"seeds: {repeated} repeat another seed, which counts it more than once")
