"""Make the report of a run, and the table that Embedding Atlas opens."""

from __future__ import annotations

from pathlib import Path

from gdig.config.budget import Limit
from gdig.pages.render import write_page
from gdig.reporting.atlas import write_atlas
from gdig.reporting.gather import gather_facts
from gdig.reporting.page import report_page
from gdig.run.session import Workspace
from gdig.selection.chosen_rows import ChosenRows
from gdig.selection.finished_run import FinishedRun
from gdig.selection.result import Selection
from gdig.selection.select_stage import open_finished_sweep
from gdig.selection.sources import read_sources
from gdig.selection.survey import Survey
from gdig.selection.tasks import Tasks
from gdig.store.sketches import SketchStore


def make_report(run: FinishedRun, html: Path, atlas: Path | None = None) -> None:
    """Write the report of a run.

    Args:
        run: the run.
        html: file of the page.
        atlas: Parquet file for Embedding Atlas; None for none.
    """
    write_page(html, report_page(gather_facts(run)))
    if atlas is not None:
        write_atlas(run, atlas)


def report_after_select(
    work: Workspace, store: SketchStore, survey: Survey, tasks: Tasks, limit: Limit, selection: Selection
) -> list[str]:
    """Write the report of a selection that was just made, and return the line that says where it is.

    The selection is complete by then. So whatever goes wrong here is a warning, and no error of the selection.
    """
    record, layout = work.run.record, work.layout
    page = layout.report
    try:
        clusters = record.stages.cluster is not None and record.stages.cluster.state == "done"
        sources = read_sources(work, layout, store)
        sweep = open_finished_sweep(layout, record, store, survey, tasks, clusters=clusters, sources=sources)
        run = FinishedRun(work, record, sweep, limit, ChosenRows(selection.columns), selection.output)
        make_report(run, page)
    except Exception as error:
        work.progress.warn(f"{page}: no report was made ({type(error).__name__}: {error}); the selection is whole")
        return []
    return [f"report: {page}"]
