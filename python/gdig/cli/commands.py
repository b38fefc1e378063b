"""The commands: what each says of itself, the options that it takes, and the function that it calls."""

from __future__ import annotations

import importlib
import json
import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from gdig.cli.colour import coloured
from gdig.config.config import Config
from gdig.config.options import TrainOptions, TrialOptions
from gdig.distributed.ranks import Ranks
from gdig.errors import ConfigError
from gdig.progress import Progress


@dataclass(frozen=True)
class Call:
    """What a command is called with: the configuration of the run, and its own options by name."""

    config: Config
    own: Mapping[str, Any]
    progress: Progress
    ranks: Ranks


@dataclass(frozen=True)
class Answer:
    """What a command prints, and its exit status."""

    lines: list[str]
    status: int = 0


@dataclass(frozen=True)
class Command:
    """A command of the command line.

    options_name: of a dataclass in gdig.cli.options. run: does the work, and returns the lines to print or an
    `Answer`. continues: whether the options of the run in run_path hold where no flag says otherwise.
    """

    summary: str
    example: str
    options_name: str
    run: Callable[[Call], list[str] | Answer]
    continues: bool = True

    @property
    def options(self) -> type:
        """The dataclass of the command's options, imported when it is needed, because tyro takes 0.1 s to import."""
        kind: type = getattr(importlib.import_module("gdig.cli.options"), self.options_name)
        return kind


def load_api(module: str = "gdig.api") -> Any:
    """Import a module, most of which take seconds (torch, transformers), once the arguments are known to be good."""
    # Bars of other libraries, such as for loading weights, would stand among gdig's own.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    return importlib.import_module(module)


def _stage(name: str, then: str) -> Callable[[Call], list[str]]:
    """Run a stage, and name the command that comes next."""

    def run(call: Call) -> list[str]:
        getattr(load_api(), name)(call.config, progress=call.progress, ranks=call.ranks)
        run_path = call.config.run_path
        if name == "sweep" and call.config.sweep_part is not None:
            return [f"{name}: part {call.config.sweep_part} done, in {run_path}", f"next: {MERGE}"]
        method = ""
        if name == "sweep" and not call.config.gradients:  # what the default method chooses by is not there
            method = " --method rds" if call.config.seeds else " --method diverse"
        return [f"{name}: done, in {run_path}", f"next: gdig {then}{method} --run-path {shlex.quote(str(run_path))}"]

    return run


def _select(call: Call) -> list[str]:
    if call.own["dry_run"]:
        return [*str(load_api("gdig.showing").plan(call.config, progress=call.progress)).splitlines(), SELECT_NEXT]
    selection = load_api().select(call.config, progress=call.progress, ranks=call.ranks)
    if not len(selection.rows):
        return list(selection.summary)
    run = shlex.quote(str(call.config.run_path))
    why = f"why row {selection.rows[0]}: gdig explain {run} {selection.rows[0]}"
    return [*selection.summary, why, f"other methods, from the same sweep: gdig compare {run}"]


def _compare(call: Call) -> list[str]:
    html = call.own["html"]
    load_api("gdig.showing").check_page(call.config, html)
    page = [f"page: {html}"] if html else []
    if call.own["other"]:
        for name in ("methods", "train", "json"):
            if call.own[name]:
                expected = "to be left out, because other compares the last selections of two runs, as text"
                raise ConfigError(f"{name}={call.own[name]!r}: expected {expected}; give only one of the two")
        return [*load_api("gdig.showing").compare_runs(call.config, call.own["other"], html), *page]
    trial = {
        option.name: call.own[option.name]
        for option in fields(TrialOptions)
        if call.own["train"] or call.own[option.name] != option.default
    }
    comparison = load_api().compare(
        call.config, call.own["methods"], train=call.own["train"], progress=call.progress, **trial
    )
    if html:
        load_api("gdig.showing").compare_page(call.config, comparison, html)
    return [json.dumps(comparison.as_json(), indent=2)] if call.own["json"] else [*comparison.lines(), *page]


def _explain(call: Call) -> list[str]:
    own = call.own
    load_api("gdig.showing").check_page(call.config, own["html"])
    names = ("rows", "seed", "text", "file", "methods", "model_pass", "selection")
    explanation = load_api("gdig.showing").explain(
        call.config, progress=call.progress, **{name: own[name] for name in names}
    )
    if own["html"]:
        explanation.write_html(own["html"])
    if own["json"]:
        return [json.dumps(explanation.as_json(), indent=2, ensure_ascii=False)]
    page = [f"page: {own['html']}"] if own["html"] else []
    return [*coloured(explanation.lines()), *page]


def _report(call: Call) -> list[str]:
    where = {name: call.own[name] for name in ("html", "atlas", "selection")}
    page = load_api("gdig.showing").report(call.config, progress=call.progress, **where)
    atlas = [f"table for Embedding Atlas: {where['atlas']}"] if where["atlas"] else []
    return [f"report: {page}", *atlas]


def _score_net(call: Call) -> list[str]:
    training = {option.name: call.own[option.name] for option in fields(TrainOptions)}
    file = load_api().score_net(call.config, progress=call.progress, **training)
    select = f"gdig select --run-path {call.config.run_path} --method self-filter --difficulty {file}"
    return [f"difficulties: {file}", f"to select by them: {select}"]


def _plan(call: Call) -> list[str]:
    plan = load_api("gdig.showing").plan(call.config, progress=call.progress)
    return [json.dumps(plan.as_json(), indent=2)] if call.own["json"] else [*str(plan).splitlines(), SELECT_NEXT]


def _preview(call: Call) -> list[str]:
    preview = load_api("gdig.showing").preview(call.config, rows=call.own["rows"], progress=call.progress)
    lines = coloured(preview.texts)
    if preview.error is not None:
        if not call.config.quiet:
            print(*lines, sep="\n")
        raise preview.error
    return lines if call.config.run_path else [*lines, PLAN_NEXT]


def _verify(call: Call) -> Answer:
    call.config.require("run_path")
    report = load_api("gdig.run.verify").verify(call.config.run_path)
    lines = [json.dumps(report.as_json(), indent=2)] if call.own["json"] else report.lines()
    return Answer(lines, 0 if report.sound else 1)


def _merge(call: Call) -> list[str]:
    call.config.require("run_path")
    merge = load_api("gdig.run.merge").merge
    lines: list[str] = merge(call.own["runs"], call.config.run_path, progress=call.progress)
    return lines


SELECT_NEXT = "next: gdig select, with the same options"
PLAN_NEXT = "next: gdig plan, with the same options, --seeds and --run-path; then gdig select"
MERGE = "gdig merge DIRECTORIES --run-path OUT, when all parts are done"

DATA = "--model models/base --candidates 'pool/*.jsonl' --seeds seeds.jsonl"

COMMANDS: dict[str, Command] = {
    "select": Command(
        "Select rows of the pool; runs fit, sweep and cluster first where they are missing.",
        f"gdig select {DATA} \\\n    --budget 500 --run-path runs/a --output selection.jsonl",
        "Select",
        _select,
    ),
    "plan": Command(
        "Tell beforehand what a run will do, and its time, memory and disk; takes a trial of seconds.",
        f"gdig plan {DATA} \\\n    --budget 500 --run-path runs/a",
        "Plan",
        _plan,
    ),
    "fit": Command(
        "Fit the curvature and precondition the seeds' gradients.",
        f"gdig fit {DATA} \\\n    --run-path runs/a --fit-tokens 50000",
        "Fit",
        _stage("fit", "sweep"),
    ),
    "sweep": Command(
        "Pass over the pool once: influence on every seed, sketch, loss.",
        f"gdig sweep {DATA} \\\n    --run-path runs/a",
        "Sweep",
        _stage("sweep", "select"),
    ),
    "cluster": Command(
        "Group the sketches by k-means.",
        "# the other options are those of the run in runs/a\ngdig cluster --run-path runs/a --n-clusters 256",
        "Cluster",
        _stage("cluster", "select"),
    ),
    "compare": Command(
        "Select by several methods from one sweep, and show the selections side by side.",
        "gdig compare runs/a --budget 500 --methods gdig top loss --html methods.html\n"
        "gdig compare runs/a --budget 5% --methods gdig random --train --held-out held.jsonl",
        "Compare",
        _compare,
    ),
    "explain": Command(
        "Say why rows have their scores: seeds, tokens, layers, cluster, places by every method.",
        "gdig explain runs/a 812 40 --seed 3\n"
        'gdig explain runs/a --text \'{"instruction": "Add 2 and 3.", "output": "5"}\' --html why.html',
        "Explain",
        _explain,
    ),
    "report": Command(
        "Write one page that shows what was chosen, and why.",
        "gdig report runs/a\ngdig report runs/a --html choice.html --atlas atlas.parquet",
        "Report",
        _report,
    ),
    "score-net": Command(
        "Train a copy of the model with a score net, which learns which rows are hard, for self-filter.",
        "gdig score-net runs/a --epochs 3\n"
        "gdig select --run-path runs/a --method self-filter --difficulty runs/a/features/difficulty.npy",
        "ScoreNet",
        _score_net,
    ),
    "preview": Command(
        "Show the first rows of each file as the model will see them, and check all rows.",
        f"gdig preview {DATA} --rows 3\ngdig preview --run-path runs/a",
        "Preview",
        _preview,
    ),
    "verify": Command(
        "Read every file of a run: which are sound, damaged, missing, or of something else.",
        "gdig verify runs/a\ngdig verify runs/a --json > report.json",
        "Verify",
        _verify,
        continues=False,
    ),
    "merge": Command(
        "Join the parts of a sweep that several machines have made (sweep_part).",
        "gdig merge a b --run-path whole\ngdig select --run-path whole --budget 500",
        "Merge",
        _merge,
        continues=False,
    ),
}
