"""Fit: the curvature on a sample of the pool, then the seeds' preconditioned gradients; both are kept as files."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import numpy as np

from gdig.data.tokens import Example
from gdig.errors import RunError
from gdig.influence.curvature import Factors, fit_curvature
from gdig.influence.seed_factors import SeedFactors, precondition_seeds
from gdig.run.record import CurvatureReport, SeedReport
from gdig.run.session import Workspace

FEWEST_SEEDS = 16
"""Fewer seeds order a pool little better than by chance; measured on real pairs (LOG.md)."""


_POOR_CORRELATION = 0.98
"""Below this the factored scores order candidates noticeably otherwise than the exact ones do."""


def fit_stage(work: Workspace) -> None:
    """Leave curvature/<layer>.safetensors and seeds/<layer>.safetensors, and the reports in run.json."""
    run, ranks = work.run, work.ranks
    seeds = work.seed_examples  # first: an unusable seed is the quickest thing to find
    factors: list[Factors] | None = None
    if work.config.inversion != "identity" and run.fit.curvature is None:
        ranks.task("curvature")
        factors, report = curvature_part(work)
        run.update("fit", curvature=report)
        if report.invalid:
            work.progress.warn(f"fit: {report.invalid} rows of the sample have a loss that is not finite; left out")
    ranks.task("seeds")
    seed_report = seeds_part(work, factors if ranks.world == 1 else None)
    layers = tuple(layer.name for layer in work.model.layers)
    warnings = tuple(_warnings(seeds, seed_report))
    run.update("fit", seeds=seed_report, layers=layers, dtype=str(work.model.dtype), warnings=warnings)
    _say(work, seeds, seed_report)
    for warning in warnings:
        work.progress.warn(warning)


def curvature_part(work: Workspace) -> tuple[list[Factors], CurvatureReport]:
    """Leave the curvature files: every rank is here, passes its part of the sample, and writes its layers' files.

    Returns:
        The factors of this rank's layers (`Ranks.owners`), and what the fit saw.
    """
    examples, rows = work.sample("curvature", work.config.fit_rows)
    keys = rows.astype(np.uint64)
    factors, report = fit_curvature(work.model, examples, keys, work.config, work.progress, work.ranks)
    for layer, f in zip(_own_layers(work), factors, strict=True):
        f.save(work.layout.curvature(layer), layer)
    work.ranks.gather(None)
    return factors, report


def seeds_part(work: Workspace, factors: list[Factors] | None = None) -> SeedReport:
    """Leave the seeds' files: every rank is here, takes its part of the seeds, and writes its layers' files.

    Args:
        work: this rank's.
        factors: curvature of all layers; None to read the files, or for the identity.
    """
    config, model = work.config, work.model
    known: list[Factors] | list[None] = factors or [None] * len(model.layers)
    if factors is None and config.inversion != "identity":
        known = [Factors.load(work.layout.curvature(layer.name), layer.device) for layer in model.layers]
    probe, _ = work.sample("probe", config.probe_rows)

    def where(seed: int) -> str:
        return f"seeds: {work.seed_corpus.where(seed)}"

    searched = work.layout.searched_seeds
    sample = work.sample("curvature", config.cg_rows)[0] if config.inversion == "cg" else []
    joined, report = precondition_seeds(
        model, known, work.seed_examples, probe, config, work.progress, where, work.ranks, sample, searched
    )
    for layer, s in zip(_own_layers(work), joined, strict=True):
        s.save(work.layout.seed_factors(layer), layer)
    work.ranks.gather(None)
    if work.ranks.main and searched.exists():
        shutil.rmtree(searched)
    return report


def _own_layers(work: Workspace) -> list[str]:
    layers = work.model.layers
    owners = work.ranks.owners(len(layers))
    return [layer.name for layer, owner in zip(layers, owners, strict=True) if owner == work.ranks.rank]


def read_seed_factors(work: Workspace, dtype: str) -> list[SeedFactors]:
    """Read what the fit, which ran in `dtype`, left, in the order of the model's layers.

    Raises:
        RunError: when the model now has another dtype (which precision "auto" makes of another device).
    """
    model = work.model
    if dtype != str(model.dtype):
        raise RunError(f"precision: the run was fitted in {dtype}, the model is now {model.dtype}; set precision")
    return [SeedFactors.load(work.layout.seed_factors(layer.name), layer.device) for layer in model.layers]


def read_curvature(work: Workspace) -> Iterator[Factors]:
    """Read the layers' curvature, one at a time, in the order of the model's layers."""
    for layer in work.model.layers:
        yield Factors.load(work.layout.curvature(layer.name), layer.device)


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
    if report.iterations:
        reached = len(seeds) - report.unconverged
        say(
            f"fit: conjugate gradients, {min(report.iterations)} to {max(report.iterations)} iterations a seed; "
            f"residual {np.median(report.residuals):.2g} (median), {max(report.residuals):.2g} (largest); "
            f"{reached} of {len(seeds)} seeds reached cg_tolerance {work.config.cg_tolerance:g}"
        )


def _warnings(seeds: list[Example], report: SeedReport) -> list[str]:
    """What may make the scores worth less than they seem, and can be seen before the sweep."""
    found = []
    if report.correlation < _POOR_CORRELATION:
        found.append("the factored scores are far from the exact ones: raise seed_rank or seed_energy")
    repeated = len(seeds) - len({seed.hash for seed in seeds})
    if repeated:
        found.append(f"seeds: {repeated} repeat another seed, which counts it more than once")
    if len(seeds) < FEWEST_SEEDS:
        found.append(
            f"seeds: only {len(seeds)}; fewer than {FEWEST_SEEDS} say little about a pool, and 64 or more say much more"
        )
    return found
