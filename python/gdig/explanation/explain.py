"""Explain rows and seeds of one run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gdig.config.config import Config
from gdig.data.corpus import open_corpus
from gdig.data.export import FIELD
from gdig.data.memory_rows import corpora_of_texts
from gdig.errors import ConfigError
from gdig.explanation.facts import Facts
from gdig.explanation.places import possible_methods
from gdig.explanation.rows import RowExplainer
from gdig.explanation.seeds import explain_seeds
from gdig.progress import Progress
from gdig.selection.finished_run import FinishedRun, open_finished_run


@dataclass(frozen=True)
class Asked:
    """What to explain.

    rows: of the pool. seed: numbers of seeds. text: rows outside the pool, as JSON objects or plain texts. file: a file
    of such rows. methods: whose places to look up; none for all that need no further pass. model_pass: whether to pass
    the model for the influence of tokens and layers. selection: file of the selection; None for the last one.
    """

    rows: Sequence[int] = ()
    seed: Sequence[int] = ()
    text: Sequence[str] = ()
    file: str | Path | None = None
    methods: Sequence[str] = ()
    model_pass: bool = True
    selection: str | None = None


def explain_asked(config: Config, asked: Asked, progress: Progress) -> Facts:
    """Explain what is asked for.

    Raises:
        ConfigError: when nothing is asked for, a row, seed or method does not exist, or the run lacks what it needs.
        RunError: when the sweep is not done, or an input has changed since.
    """
    if not (asked.rows or asked.seed or asked.text or asked.file):
        raise ConfigError("explain: expected what to explain, got nothing; give numbers of rows, seed, text or a file")
    run = open_finished_run(config, progress, asked.selection)
    possible = possible_methods(run)
    for method in asked.methods:
        if method not in possible:
            raise ConfigError(f"methods: expected some of {', '.join(possible)}, which this run allows; got {method!r}")
    explainer = RowExplainer(run, asked.methods or possible, asked.model_pass)
    rows = explainer.of_pool(asked.rows) if asked.rows else []
    corpora = corpora_of_texts(asked.text)
    if asked.file is not None:
        corpora.append(open_corpus([asked.file], name="file"))
    for corpus in corpora:
        rows += explainer.of_corpus(corpus)
    seeds = explain_seeds(run, asked.seed)
    return Facts(str(config.run_path), run.config.method, tuple(rows), tuple(seeds), tuple(_notes(run)))


def _notes(run: FinishedRun) -> list[str]:
    notes = []
    if run.chosen is None:
        select = run.record.stages.select
        if select is None:
            why = "nothing is selected yet"
        elif select.config.get("plain"):
            why = f"{select.output} was written with plain, without {FIELD}; select again without it"
        else:
            why = f"{select.output} is gone; name the file with selection"
        notes.append(f"what was chosen is not known: {why}")
    if not run.has_clusters:
        notes.append("the run has no clusters; gdig cluster makes them")
    if not run.config.gradients:
        notes.append("the run has no gradients, so nothing has an influence")
    return notes
