"""Gather what a report says of a run. No pass of the model: the sweep, the clusters, the selection, texts of rows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import asdict, fields

import numpy as np
from numpy.typing import NDArray

from gdig.config.config import Config
from gdig.meter import duration
from gdig.reporting.bounds import LINES, NAME_BYTES, VALUE_BYTES, fitting
from gdig.reporting.cards import row_cards
from gdig.reporting.columns import Columns, counted_columns, sketches_of
from gdig.reporting.facts import Histogram, Map, ReportFacts, Votes
from gdig.reporting.groups import cluster_cards, count_clusters, source_lines, task_lines
from gdig.reporting.overlap import overlap_of_methods
from gdig.reporting.plane import to_plane
from gdig.reporting.repeats import find_repeats
from gdig.reporting.seed_lines import seed_lines
from gdig.selection.finished_run import FinishedRun
from gdig.selection.methods.gdig import rule_for
from gdig.selection.survey import threshold

MAP_ROWS = 2_000
"""Rows of the map. Chosen rows are up to half of them."""
TABLE_ROWS = 2_000
"""Chosen rows that the table shows."""
_BINS = 40
_SHOWN = 10
"""Rows of a list of the best, the worst and those at the threshold."""
_NEAR = 3


def gather_facts(run: FinishedRun) -> ReportFacts:
    """Return all that the report says of a run, chosen or not."""
    columns, stages, sweep = counted_columns(run), run.record.stages, run.sweep
    chosen = run.chosen.rows if run.chosen is not None else np.zeros(0, np.int64)
    ranked = _ranked(columns)
    table, best, worst = chosen[:TABLE_ROWS].tolist(), ranked[:_SHOWN], ranked[::-1][:_SHOWN]
    edge = chosen[-_SHOWN:].tolist() if len(chosen) > _SHOWN else []
    repeats = find_repeats(run)
    plane, near = _map(columns)
    clusters = cluster_cards(columns)
    named = [*table, *best, *worst, *edge, *(plane.rows if plane else ())]
    named += [row for card in clusters for row in card.examples] + [row for pair in repeats.pairs for row in pair[:2]]
    select = stages.select
    assert stages.sweep is not None
    inputs = tuple(
        (kind, fitting(name, NAME_BYTES), int(facts.get("size", 0)))
        for kind, files in run.record.inputs.items()
        for name, facts in files.items()
    )
    return ReportFacts(
        run=str(run.config.run_path),
        method=run.config.method,
        chosen_file=str(run.chosen_file) if run.chosen_file is not None else None,
        figures=_figures(run, columns),
        warnings=_warnings(run),
        notes=_lines(select.notes) if select is not None else (),
        asked=_asked(run.config),
        inputs=inputs[:LINES],
        n_inputs=len(inputs),
        stages=tuple(
            (name, stage.seconds)
            for name in ("fit", "sweep", "cluster", "select")
            if (stage := getattr(stages, name)) is not None
        ),
        versions=tuple(run.record.versions.items()),
        counts=tuple(asdict(stages.sweep.counts).items()) if stages.sweep.counts is not None else (),
        counted=len(columns.rows),
        valid=sweep.survey.valid,
        histograms=_histograms(columns),
        votes=_votes(run),
        map=plane,
        clusters=clusters,
        n_clusters=count_clusters(run),
        sources=source_lines(columns, sweep.sources.names),
        n_sources=len(sweep.sources.names),
        tasks=task_lines(columns),
        n_tasks=len(sweep.tasks.names) if sweep.tasks else 0,
        seeds=seed_lines(columns),
        n_seeds=sweep.survey.n_seeds,
        best=tuple(best),
        worst=tuple(worst),
        edge=tuple(edge),
        best_by="score" if sweep.survey.voters else "loss",
        repeats=repeats,
        overlap=overlap_of_methods(run),
        chosen=tuple(table),
        n_chosen=len(chosen),
        rows=row_cards(run, named, near),
    )


def _ranked(columns: Columns) -> list[int]:
    """The counted rows at both ends, best first: by score, or by low loss without influence; ties by row."""
    values = columns.values["score"] if columns.run.sweep.survey.voters else -columns.values["loss"]
    order = np.lexsort((columns.rows, -values.astype(np.float64)))
    if len(order) > 2 * _SHOWN:
        order = np.concatenate([order[:_SHOWN], order[-_SHOWN:]])
    return [int(row) for row in columns.rows[order]]


def _figures(run: FinishedRun, columns: Columns) -> tuple[tuple[str, str], ...]:
    pool, select = run.sweep.survey, run.record.stages.select
    figures = [("rows of the pool", f"{pool.rows:,}"), ("of which valid", f"{pool.valid:,}")]
    if run.chosen is not None and select is not None:
        figures += [("chosen", f"{len(run.chosen.rows):,}"), ("budget", run.config.budget)]
        if select.tokens is not None:
            figures.append(("tokens chosen", f"{select.tokens:,} of {pool.all_tokens:,}"))
    figures += [("method", run.config.method), ("seeds", f"{pool.n_seeds or len(run.work.seed_corpus):,}")]
    if pool.voters:
        chosen = columns.values["votes"][columns.is_chosen]
        if len(chosen):
            figures.append(("agreement", f"{chosen.mean() / pool.voters:.3f} (pool {pool.mean_agreement:.3f})"))
    seconds = sum(
        stage.seconds for name in ("fit", "sweep", "cluster") if (stage := getattr(run.record.stages, name)) is not None
    )
    return (*figures, ("time", duration(seconds)))


def _warnings(run: FinishedRun) -> tuple[str, ...]:
    stages = run.record.stages
    given = [
        *(stages.fit.warnings if stages.fit is not None else ()),
        *(stages.sweep.warnings if stages.sweep is not None else ()),
        *(stages.select.warnings if stages.select is not None else ()),
    ]
    if run.chosen is None:
        given.append("no selection is shown: none was made yet, or its file is gone")
    return _lines(dict.fromkeys(given))


def _lines(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(fitting(text, VALUE_BYTES) for text in itertools.islice(texts, LINES))


def _asked(config: Config) -> tuple[tuple[str, str], ...]:
    """The options that differ from the defaults."""
    return tuple(
        (option.name, fitting(str(value), VALUE_BYTES))
        for option in fields(Config)
        if (value := getattr(config, option.name)) != option.default and option.name not in ("quiet", "overwrite")
    )


def _histograms(columns: Columns) -> tuple[Histogram, ...]:
    names = (["score"] if columns.run.sweep.survey.voters else []) + ["loss", "tokens"]
    return tuple(_histogram(name, columns.values[name].astype(np.float64), columns.is_chosen) for name in names)


def _histogram(name: str, values: NDArray[np.float64], is_chosen: NDArray[np.bool_]) -> Histogram:
    """Shares in bins of equal width; those beyond the 0.5th and 99.5th percentile are in the outermost bins."""
    if not len(values):
        return Histogram(name, (0.0, 1.0), (0.0,), (0.0,), float("nan"), float("nan"))
    low, high = np.percentile(values, [0.5, 99.5])
    edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)
    if name == "tokens":  # whole numbers: each bin holds as many of them
        width = max(1, -(-(int(high) - int(low) + 1) // _BINS))
        edges = np.arange(int(low), int(high) + 1 + width, width) - 0.5

    def shares(x: NDArray[np.float64]) -> tuple[float, ...]:
        counts, _ = np.histogram(x.clip(edges[0], edges[-1]), edges)
        return tuple((counts / max(1, len(x))).tolist())

    chosen = values[is_chosen]
    return Histogram(
        name, tuple(edges.tolist()), shares(values), shares(chosen),
        float(np.median(values)), float(np.median(chosen)) if len(chosen) else float("nan"),
    )  # fmt: skip


def _votes(run: FinishedRun) -> Votes | None:
    pool, sweep = run.sweep.survey, run.record.stages.sweep
    if not pool.voters or sweep is None:
        return None
    reliability = sweep.seed_health.reliability if sweep.seed_health is not None else None
    if reliability is not None and not math.isfinite(reliability):
        reliability = None  # one seed tells nothing of another draw
    return Votes(pool.voters, pool.kind, tuple(pool.counts.tolist()), _threshold(run), reliability)


def _threshold(run: FinishedRun) -> int | None:
    """The least votes of a chosen row, of a method that has a threshold: agreement, or gdig where it follows that.

    With quotas each source has a threshold of its own, and `max_similarity` asks for more rows than it takes: no line.
    """
    config, sweep = run.config, run.eligible.sweep
    if config.source_quotas is not None or config.max_similarity < 1:
        return None
    if config.method != "agreement" and (config.method != "gdig" or rule_for(sweep).method != "agreement"):
        return None
    return threshold(sweep.survey, config.tau, run.limit)


def _map(columns: Columns) -> tuple[Map | None, dict[int, tuple[tuple[int, float], ...]]]:
    """The map of a sample, and the nearest rows of each row of it."""
    rows = _spread(columns.rows[columns.is_chosen], MAP_ROWS // 2)
    others = columns.rows[~columns.is_chosen]
    rows = np.sort(np.concatenate([rows, _spread(others, MAP_ROWS - len(rows))]))
    if len(rows) < 3:
        return None, {}
    run = columns.run
    plane = to_plane(sketches_of(run, rows), run.config.random_seed)
    numbers = rows.tolist()
    near = {
        row: tuple((numbers[j], float(c)) for j, c in zip(at[:_NEAR], cosines[:_NEAR], strict=True))
        for row, at, cosines in zip(numbers, plane.near.tolist(), plane.cosines.tolist(), strict=True)
    }
    pca, layout = (tuple(map(tuple, np.round(x, 3).tolist())) for x in (plane.pca, plane.layout))
    return Map(tuple(numbers), pca, layout, plane.explained), near


def _spread(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Up to `most` rows, evenly spaced."""
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]
