"""The groups of options that only the command line has. Those of a run are in :mod:`gdig.config.options`."""

from __future__ import annotations

from dataclasses import dataclass

from tyro.conf import Positional

from gdig.config.options import Basic, PlaceOptions, PresetOptions


@dataclass(frozen=True)
class FileOptions:
    """Options without a flag come from the YAML file, then from the run."""

    config: Basic[str | None] = None
    """YAML file of options, whose keys are the flags with underscores (run_path: runs/a). Flags win over the file."""


@dataclass(frozen=True)
class DefaultOptions(PresetOptions, FileOptions):
    """Options without a flag come from the YAML file, then from the run in run_path, then from the preset."""


@dataclass(frozen=True)
class PreviewOptions:
    """What to show."""

    rows: Basic[int] = 2
    """Rows to show of each file, from the first on. The default shows the format of each file. Raise it to see more."""


@dataclass(frozen=True)
class RunsOptions:
    """Runs whose sweeps are put together in run_path, which is one of them or a new directory."""

    runs: Basic[Positional[tuple[str, ...]]] = ()
    """Copies of one fitted run, each with a part of the sweep (sweep_part)."""


@dataclass(frozen=True)
class MergedRunOptions(PlaceOptions):
    """Where the whole sweep goes."""

    run_path: Basic[str | None] = None
    """Run directory that gets all parts: one of RUNS, or a new one."""


@dataclass(frozen=True)
class CompareOptions:
    """What to compare."""

    run: Basic[Positional[str | None]] = None
    """Directory of a run; the same as run_path."""
    methods: Basic[tuple[str, ...]] = ()
    """Methods to compare, by the names of the option method. The default is every method that the run has the inputs
    for. Name a few to save time."""
    train: Basic[bool] = False
    """Also train an adapter on each selection; show the loss on held-out rows. Off by default, because each method
    costs a training. Name few methods."""
    json: Basic[bool] = False
    """Print JSON instead of a table. Off by default. Switch it on for other programs."""
    html: str | None = None
    """File of a page with the rows that one selection alone has. By default none is written."""
    other: str | None = None
    """Directory of another run over the same pool: compares the last selections of both, and no methods. By default
    methods of one run are compared."""


@dataclass(frozen=True)
class VerifyOptions:
    """What to read, and what to print."""

    run: Basic[Positional[str | None]] = None
    """Directory of a run; the same as run_path."""
    json: Basic[bool] = False
    """Print JSON, with the state of each file, instead of lines. Off by default. Switch it on for other programs."""


@dataclass(frozen=True)
class StartOptions:
    """Whether the run starts."""

    dry_run: Basic[bool] = False
    """Print the plan of the run, as gdig plan does, and end. Off by default. Switch it on before a long run."""


@dataclass(frozen=True)
class PlanOptions:
    """How the plan is printed."""

    json: Basic[bool] = False
    """Print JSON instead of text. Off by default. Switch it on for other programs."""


@dataclass(frozen=True)
class ExplainOptions:
    """What to explain."""

    run: Basic[Positional[str | None]] = None
    """Directory of a swept run; the same as run_path."""
    rows: Basic[Positional[tuple[int, ...]]] = ()
    """Numbers of rows of the pool, as selection.jsonl shows them in gdig.row."""
    seed: Basic[tuple[int, ...]] = ()
    """Numbers of seeds, from 0: shows the rows that help each of them most, and those that harm it."""
    text: Basic[tuple[str, ...]] = ()
    """Rows that are not in the pool: a JSON object with the fields of a row, or a plain text, which is a row of the
    format text. The model is passed once for each."""
    file: Basic[str | None] = None
    """File of rows that are not in the pool, in any format of the pool."""
    methods: tuple[str, ...] = ()
    """Methods whose places of a row are looked up, by the names of the option method. The default is every method that
    needs no further pass; those over neighbours only up to 65,536 rows."""
    selection: str | None = None
    """File of the selection. The default is that of the last gdig select. Name it when a run has several selections."""
    model_pass: bool = True
    """Pass the model over the batch of each row, which gives the influence of tokens and layers. Switch it off to save
    the time that a model takes to load."""
    json: Basic[bool] = False
    """Print JSON instead of text. Off by default. Switch it on for other programs."""
    html: Basic[str | None] = None
    """File of an HTML page with the same, which opens from a disk. By default none is written."""


@dataclass(frozen=True)
class ReportOptions:
    """What to report on, and where the report goes."""

    run: Basic[Positional[str | None]] = None
    """Directory of a swept run; the same as run_path."""
    html: Basic[str | None] = None
    """File of the report. The default is report.html in the run directory."""
    atlas: Basic[str | None] = None
    """Parquet file of the rows for Embedding Atlas, with texts, numbers and places in the plane. By default none."""
    selection: Basic[str | None] = None
    """File of the selection. The default is that of the last gdig select. Name it when a run has several selections."""


@dataclass(frozen=True)
class SweptRunOptions:
    """Whose pool."""

    run: Basic[Positional[str | None]] = None
    """Directory of a swept run; the same as run_path."""
