"""What shows a run and changes nothing in it: plan and preview before it, explain, report and comparisons after it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import Unpack

from gdig.config.config import Config
from gdig.config.typed_options import Options
from gdig.distributed.torchrun import is_launched
from gdig.errors import ConfigError, UnfinishedRunError
from gdig.explanation.explain import Asked, explain_asked
from gdig.explanation.explanation import Explanation
from gdig.passes.checkpoint_check import check_checkpoints
from gdig.passes.torch_errors import torch_errors_explained
from gdig.planning.pool_size import SAMPLE_ROWS
from gdig.planning.report import RunPlan
from gdig.planning.run_plan import make_plan
from gdig.progress import Progress
from gdig.reporting.comparison import comparison_lines, gather_comparison, require_same_pool, write_comparison
from gdig.reporting.report import make_report
from gdig.run.directory import require_options, settled_record
from gdig.run.layout import RunLayout
from gdig.run.output_places import PAGE_ENDINGS, TABLE_ENDINGS, check_place
from gdig.run.record import RunRecord
from gdig.run.session import Workspace
from gdig.run.stored_options import config_of_start
from gdig.selection.check_choice import check_choice
from gdig.selection.compare import Comparison
from gdig.selection.finished_run import open_finished_run
from gdig.selection.select_stage import check_selection_output

if TYPE_CHECKING:
    from gdig.data.preview import Preview


def plan(config: Config | None = None, *, progress: Progress | None = None, **options: Unpack[Options]) -> RunPlan:
    """Plan a run: tell what :func:`gdig.select` would do with the same options, and what it would cost.

    A sample of the pool is read, the model is loaded, and a batch passes it in a trial of seconds. Nothing is written.

    Args:
        config: options, as of :func:`gdig.select`.
        progress: where to show progress.
        options: see :class:`gdig.Config`.

    Returns:
        The plan: stages, seconds, memory and disk. `print` shows it as text, and `as_json` gives values of JSON.

    Raises:
        GdigError: whatever would stop the run at once, such as memory or disk that cannot hold it.

    Example:
        >>> plan = gdig.plan(run_path="runs/b", **inputs)  # doctest: +SKIP
        >>> plan.seconds, plan.peak_memory, plan.sweep_batch_size  # doctest: +SKIP
        (412.7, 3406577664, 512)
    """
    if is_launched():
        raise ConfigError("plan runs in one process; start it without torchrun")
    config = config_of_start(config, options)
    require_options(config, "model", "candidates", "seeds", "run_path")
    work = Workspace(config, progress or Progress(config.quiet))
    work.open_inputs()
    record = settled_record(work.layout, config) or RunRecord()
    check_choice(work, record, [config.method], check_checkpoints(work, record), most=SAMPLE_ROWS)
    check_selection_output(work)
    return make_plan(work)


def preview(
    config: Config | None = None, *, rows: int = 2, progress: Progress | None = None, **options: Unpack[Options]
) -> Preview:
    """Show the first rows of each file as the model will see them, and check all rows as :func:`gdig.select` does.

    Needs `model` (for its tokenizer and window) and `candidates`, or a `run_path` with a run. Touches no weights, and
    writes nothing.

    Args:
        config: the options; those given by name replace its values.
        rows: how many rows of each file are shown.
        progress: where to show progress.
        options: see :class:`gdig.Config`.

    Returns:
        What a run would read. Its `error` is what would stop a run.

    Raises:
        GdigError: a subclass that says what is wrong with the options, or with files that cannot be read at all.

    Example:
        >>> preview = gdig.preview(**inputs)
        >>> list(preview.reports), preview.error
        (['candidates', 'seeds'], None)
    """
    from gdig.data.preview import LEGEND, Preview, preview_corpus
    from gdig.data.rendering import rendered_otherwise

    work = Workspace(config_of_start(config, options), progress or Progress())
    require_options(work.config, "model", "candidates")
    corpora = [("candidates", work.candidates, work.encoder, work.config.bad_rows == "skip")]
    if work.config.seeds:
        corpora.append(("seeds", work.seed_corpus, work.seed_encoder, False))
    whole = Preview([LEGEND], {}, None)
    for name, corpus, encoder, skip in corpora:
        with work.progress.stage(f"check of {name}", len(corpus)) as bar:
            texts, reports, error = preview_corpus(corpus, encoder, rows, bar.advance, skip_bad_rows=skip)
        whole = Preview([*whole.texts, *texts], {**whole.reports, name: reports}, whole.error or error)
    if work.config.seeds and (otherwise := rendered_otherwise(work.renderings)) is not None:
        work.progress.warn(otherwise)
    return whole


def explain(
    config: Config | None = None,
    rows: Sequence[int] = (),
    *,
    seed: Sequence[int] = (),
    text: Sequence[str] = (),
    file: str | Path | None = None,
    methods: Sequence[str] = (),
    model_pass: bool = True,
    selection: str | None = None,
    progress: Progress | None = None,
    **options: Unpack[Options],
) -> Explanation:
    """Say why rows have their scores: seeds, tokens, layers, cluster, nearest rows, and their places by every method.

    The run stays as it is, and its options and those of its last selection hold. One pass of the model over the batch
    of each row takes the row's influence apart; nothing else needs the model.

    Args:
        config: options; `run_path` is required.
        rows: rows of the pool.
        seed: numbers of seeds, for the rows that help them most.
        text: rows outside the pool: JSON objects with the fields of a row, or plain texts.
        file: a file of rows outside the pool.
        methods: methods whose places are looked up; none for all that need no further pass.
        model_pass: whether to pass the model for tokens and layers.
        selection: file of the selection; None for the last one.
        progress: where to show progress.
        options: see :class:`gdig.Config`; `run_path` is required.

    Raises:
        GdigError: a subclass that says what does not exist, is not done, or has changed.

    Example:
        >>> explanation = gdig.explain(run_path="runs/a", rows=[12])
        >>> explanation.rows[0].row
        12
    """
    config = config_of_start(config, options)
    progress = progress or Progress(config.quiet)
    with torch_errors_explained(config.device):
        asked = Asked(tuple(rows), tuple(seed), tuple(text), file, tuple(methods), model_pass, selection)
        return Explanation(explain_asked(config, asked, progress))


def report(
    config: Config | None = None,
    *,
    html: str | Path | None = None,
    atlas: str | Path | None = None,
    selection: str | None = None,
    progress: Progress | None = None,
    **options: Unpack[Options],
) -> Path:
    """Write one page that shows what a run chose, and why. It opens from a disk and asks for nothing.

    The run stays as it is, and its options and those of its last selection hold. :func:`gdig.select` makes it too.

    Args:
        config: options; `run_path` is required.
        html: file of the page; None for report.html in the run directory.
        atlas: Parquet file for Embedding Atlas; None for none.
        selection: file of the selection; None for the last one.
        progress: where to show progress.
        options: see :class:`gdig.Config`; `run_path` is required.

    Returns:
        The file of the page.

    Raises:
        GdigError: a subclass that says what is not done, or has changed.

    Example:
        >>> gdig.report(run_path="runs/a", html="a.html")
        PosixPath('a.html')
    """
    config = config_of_start(config, options)
    check_page(config, html)
    if atlas is not None:
        check_place("atlas", atlas, config, TABLE_ENDINGS, [selection])
    run = open_finished_run(config, progress or Progress(config.quiet), selection)
    if atlas is not None:
        check_place("atlas", atlas, run.config, TABLE_ENDINGS, [run.chosen_file])
    page = Path(html) if html is not None else RunLayout(Path(str(config.run_path))).report
    make_report(run, page, Path(atlas) if atlas is not None else None)
    return page


def check_page(config: Config, html: str | Path | None) -> None:
    """Raise ConfigError, before anything is computed, if the page `html` would take the place of another file."""
    if html is not None:
        check_place("html", html, config, PAGE_ENDINGS)


def compare_page(config: Config, comparison: Comparison, html: str | Path) -> None:
    """Write a comparison of methods as a page, with the texts of the rows that one method alone selected."""
    check_page(config, html)
    run = open_finished_run(config, Progress(quiet=True))
    names = [summary.method for summary in comparison.summaries]
    notes = {summary.method: summary.notes for summary in comparison.summaries}
    rows = dict(zip(names, comparison.rows, strict=True))
    write_comparison(gather_comparison(run, rows, notes, comparison.held_out), Path(html))


def compare_runs(config: Config, other: str, html: str | Path | None = None) -> list[str]:
    """Compare the last selections of two runs over the same pool.

    Args:
        config: of the first run, whose numbers are shown.
        other: directory of the second run.
        html: file of a page with the rows that one run alone selected; None for none.

    Returns:
        Lines that say what the two have in common.

    Raises:
        RunError: when a run has no selection, or the pools differ.
    """
    check_page(config, html)
    paths = [str(config.run_path), other]
    configs = (config, config_of_start(None, {"run_path": other}))
    runs = [open_finished_run(of_run, Progress(quiet=True)) for of_run in configs]
    for run, path in zip(runs, paths, strict=True):
        if run.chosen is None:
            raise UnfinishedRunError(
                f"{path}: expected a selection, but it has none; run gdig select --run-path {path} first"
            )
    require_same_pool(*runs)
    selections = {path: run.chosen.rows for path, run in zip(paths, runs, strict=True) if run.chosen is not None}
    facts = gather_comparison(runs[0], selections)
    if html is not None:
        write_comparison(facts, Path(html))
    return comparison_lines(facts)
