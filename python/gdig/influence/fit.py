"""The fit stage: fit the curvature on a sample of the pool, and precondition the seeds' gradients. Both write files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict

import numpy as np

from gdig.config.config import Config
from gdig.config.layer_choice import parse_layers
from gdig.data.rendering import rendered_otherwise
from gdig.data.tokens import Example
from gdig.errors import OtherRunError
from gdig.influence.curvature import CurvatureFit
from gdig.influence.curvature_resume import CurvatureResume
from gdig.influence.factors import Factors
from gdig.influence.memory_plan import plan_fit
from gdig.influence.precondition_seeds import precondition_seeds
from gdig.influence.seed_factors import SeedFiles
from gdig.influence.seed_plan import plan_seeds_on_ranks
from gdig.influence.seeds_resume import SeedsResume
from gdig.model.precision import products_made_from
from gdig.nouns import counted, gib
from gdig.run.links import remove_folder
from gdig.run.origin import curvature_origin, seeds_origin
from gdig.run.record import CurvatureReport, SeedReport
from gdig.run.session import Workspace
from gdig.store.tensor_file import CheckedFile, damage_of

FEWEST_SEEDS = 16
"""With fewer seeds, the order of the pool is little better than chance, as measured on real pairs (LOG.md)."""
_POOR_CORRELATION = 0.98
"""Below this correlation, the factored scores order the pool noticeably differently from the exact scores."""


def fit_stage(work: Workspace) -> None:
    """Write the curvature and the seeds' factors of each layer, and record the reports."""
    run, ranks = work.run, work.ranks
    seeds = work.seed_examples  # read first, so that a seed that cannot be used ends the fit at once
    origin = curvature_origin(run.record)
    if run.fit.curvature is not None:
        layout = work.layout
        if _damaged(work, [layout.checked(layout.curvature(layer.name), origin) for layer in work.model.layers]):
            run.update("fit", curvature=None)
    if work.config.inversion != "identity" and run.fit.curvature is None:
        size = run.fit.token_batch_size
        ranks.task("curvature", origin=origin, token_batch_size=size)
        report = fit_curvature_on_ranks(work, origin, size)
        run.update("fit", curvature=report)
        if report.invalid:
            invalid = counted(report.invalid, "row of the sample has", "rows of the sample have")
            work.progress.warn(f"fit: {invalid} no finite loss; the curvature leaves out such rows")
    origins = {"origin": seeds_origin(run.record), "of_curvature": curvature_origin(run.record)}
    ranks.task("seeds", **origins)
    seed_report = precondition_seeds_on_ranks(work, **origins)
    layers = tuple(layer.name for layer in work.model.layers)
    coverage = work.model.coverage
    warnings = tuple(_warnings(seeds, seed_report))
    if coverage.warning is not None and not _names_its_layers(work.config):
        warnings = (coverage.warning, *warnings)
    renderings = work.renderings
    if (otherwise := rendered_otherwise(renderings)) is not None:
        warnings = (otherwise, *warnings)
    run.update(
        "fit",
        seeds=seed_report,
        layers=layers,
        coverage=coverage.share,
        dtype=str(work.model.dtype),
        warnings=warnings,
        renderings=renderings,
    )
    _print_report(work, seeds, seed_report)
    for warning in warnings:
        work.progress.warn(warning)


def fit_is_sound(work: Workspace) -> bool:
    """Read the files of a finished fit, and say whether all are sound. A warning names each that is not.

    `fit_stage` makes those of the seeds again, and the curvature where it is not sound.
    """
    run, layout = work.run, work.layout
    groups = [group for group in layout.files_of(run.record) if group.origin is not None and group.stage == "fit"]
    return not _damaged(work, [layout.checked(file, group.origin or "") for group in groups for file in group.files])


def _damaged(work: Workspace, files: list[CheckedFile]) -> bool:
    """Whether a file of the fit cannot be used; a warning names each."""
    damages = [damage for damage in damage_of(files) if damage is not None]
    for damage in damages:
        work.progress.warn(f"{damage.what}; the fit makes it again")
    return bool(damages)


def skip_fit(work: Workspace) -> None:
    """Record a fit without layers, for a run without gradients. Its sweep needs the model's dtype alone."""
    renderings = work.renderings
    otherwise = rendered_otherwise(renderings)
    warnings = () if otherwise is None else (otherwise,)
    work.run.update("fit", layers=(), dtype=str(work.model.dtype), renderings=renderings, warnings=warnings)
    for warning in warnings:
        work.progress.warn(warning)


def fit_curvature_on_ranks(work: Workspace, origin: str, token_batch_size: int | None) -> CurvatureReport:
    """Write the curvature files. Every rank calls this; it passes its share of the sample, and writes its layers.

    Args:
        work: the workspace of this rank.
        origin: of the curvature (gdig.run.origin).
        token_batch_size: the resolved option of an earlier start. None: rank 0 resolves and records it.

    Returns:
        The report on the sample. The seeds read the files, so that the factors are in memory one layer at a time.
    """
    config, ranks, model, layout = work.config, work.ranks, work.model, work.layout
    examples, rows = work.fit_sample
    if token_batch_size is not None:  # the bits depend on it, so every start takes the same
        config = config.with_options(token_batch_size=token_batch_size)
    plan = plan_fit(model, examples, config, ranks)
    if ranks.main:
        partitions = tuple(len(partition) for partition in plan.partitions)
        work.run.update("fit", token_batch_size=plan.token_batch_size, partitions=partitions)
    if len(plan.partitions) > 1:
        work.progress.say(
            f"fit: {len(model.layers)} layers in {len(plan.partitions)} partitions, each with its own passes over the "
            f"sample, because the plan may take {gib(plan.limit or 0)} of memory; fewer layers or more "
            "free memory make the fit faster"
        )

    def file_of(layer: str) -> CheckedFile:
        return layout.checked(layout.curvature(layer), origin)

    resume = CurvatureResume(layout.curvature_resume, origin, work.progress.warn)
    fit = CurvatureFit(model, examples, rows.astype(np.uint64), config, work.progress, ranks, plan, resume)
    report = None
    for partition in plan.partitions:
        names = [model.layers[index].name for index in partition]
        stored_report = resume.report_of(names) if ranks.main and not any(damage_of(map(file_of, names))) else None
        facts = ranks.gather(None if stored_report is None else asdict(stored_report))[0]
        if facts is not None:
            report = CurvatureReport(**facts)
            continue
        factors = fit.run(partition)
        report = fit.report
        for index, f in factors.items():
            f.save(file_of(model.layers[index].name), model.layers[index].name)
        ranks.gather(None)
        if ranks.main and report is not None:
            resume.end_partition(names, report)
    ranks.gather(None)
    if ranks.main:
        remove_folder(layout.curvature_resume)
    assert report is not None
    return report


def precondition_seeds_on_ranks(work: Workspace, origin: str, of_curvature: str) -> SeedReport:
    """Write the seeds' files. Every rank calls this; it takes its share of the seeds, and writes its layers.

    Args:
        work: the workspace of this rank.
        origin: of the seeds (gdig.run.origin).
        of_curvature: the origin of the curvature.
    """
    config, model = work.config, work.model
    curvature: Iterable[Factors | None] = read_curvature(work, of_curvature)
    if config.inversion == "identity":
        curvature = [None] * len(model.layers)
    probe, _ = work.sample("probe", config.probe_rows)

    def where(seed: int) -> str:
        return f"seeds: {work.seed_corpus.where(seed)}"

    products = products_made_from(config.matmul_precision, model.device)
    made_from = " ".join([origin, str(model.dtype), model.device.type, products])
    resume = SeedsResume(work.layout.seeds_resume, made_from, work.progress.warn)
    sample = work.sample("curvature", config.cg_rows)[0] if config.inversion == "cg" else []
    partitions = plan_seeds_on_ranks(model, config, work.seed_examples, probe, work.ranks)
    _, report = precondition_seeds(
        model,
        curvature,
        work.seed_examples,
        probe,
        config,
        work.progress,
        where,
        work.ranks,
        sample,
        resume,
        partitions,
        _seed_files(work, origin),
    )
    work.ranks.gather(None)
    if work.ranks.main:
        remove_folder(resume.folder)
    return report


def read_seed_factors(work: Workspace, dtype: str, origin: str) -> SeedFiles:
    """Return the files of the seeds' factors, in the order of the model's layers.

    Args:
        work: the workspace of this rank.
        dtype: the name of the dtype of the fit.
        origin: of the seeds (gdig.run.origin).

    Raises:
        RunError: if the model has another dtype than the fit. precision="auto" gives devices different dtypes.
    """
    check_dtype(work, dtype)
    return _seed_files(work, origin)


def _seed_files(work: Workspace, origin: str) -> SeedFiles:
    layout = work.layout
    return SeedFiles(work.model.layers, lambda layer: layout.checked(layout.seed_factors(layer), origin))


def check_dtype(work: Workspace, dtype: str) -> None:
    """Raise RunError if the model has another dtype than the fit."""
    if dtype != str(work.model.dtype):
        raise OtherRunError(
            f"precision={work.config.precision}: expected the precision of the fit, {dtype}, but the model is "
            f"{work.model.dtype}; set precision={dtype.removeprefix('torch.')}"
        )


def read_curvature(work: Workspace, origin: str) -> Iterator[Factors]:
    """Read the curvature of the layers, one at a time, in the order of the model's layers. `origin`: of the curvature.

    Raises:
        StoreError: if a file is missing or damaged, or of something else.
    """
    for layer in work.model.layers:
        yield Factors.load(work.layout.checked(work.layout.curvature(layer.name), origin), layer)


def _print_report(work: Workspace, seeds: list[Example], report: SeedReport) -> None:
    say = work.progress.say
    say(
        f"fit: {counted(len(seeds), 'seed')}, {counted(report.columns, 'column')} over "
        f"{counted(len(work.model.layers), 'layer')}, "
        f"at least {report.least_energy:.1%} of the energy of each gradient"
    )
    if math.isnan(report.correlation):  # such as of an expert that none of the rows goes to
        say("fit: factored scores are not compared with exact ones, whose numbers do not differ; raise probe_rows")
    else:
        say(
            f"fit: factored against exact scores, probe_rows {report.probe_rows}: relative error "
            f"{report.relative_error:.2g}, correlation {report.correlation:.4f}"
        )
    if report.iterations:
        reached = len(seeds) - report.unconverged
        say(
            f"fit: conjugate gradients, {min(report.iterations)} to {max(report.iterations)} iterations a seed; "
            f"residual {np.median(report.residuals):.2g} (median), {max(report.residuals):.2g} (largest); "
            f"{reached} of {len(seeds)} seeds reached cg_tolerance {work.config.cg_tolerance:g}"
        )


def _names_its_layers(config: Config) -> bool:
    """Whether the options ask for layers that cannot be expected to have most of the weights."""
    if config.layers is None:
        return config.filter_modules is not None or config.preset == "paper"
    return config.filter_modules is not None or parse_layers(config.layers).kind == "attention"


def _warnings(seeds: list[Example], report: SeedReport) -> list[str]:
    """The reasons for poor scores that are visible before the sweep."""
    warnings = []
    if report.correlation < _POOR_CORRELATION:
        warnings.append(
            f"factored and exact scores have a correlation of {report.correlation:.4f}, expected at least "
            f"{_POOR_CORRELATION}; raise seed_rank or seed_energy"
        )
    repeated = len(seeds) - len({seed.hash for seed in seeds})
    if repeated:
        warnings.append(
            f"seeds: {counted(repeated, 'repeats', 'repeat')} another seed, so that seed counts more than once; remove "
            "the copies"
        )
    if len(seeds) < FEWEST_SEEDS:
        warnings.append(
            f"seeds: only {len(seeds)}; fewer than {FEWEST_SEEDS} order a pool little better than chance; use 64"
        )
    return warnings
