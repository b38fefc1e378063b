"""The runs that the drill damages: a finished one, stopped ones, and one of the same shape over other rows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

METHODS = ("gdig", "agreement", "top", "tagcos", "bm25")
"""The methods that choose after each fault: over clusters, sketches, influence and tokens."""
STOPS = {
    "fit": ("gdig.model.capture:GradientPass.run", 3),
    "sweep": ("gdig.passes.row_pass:RowPass.shard", 3),
    "cluster": ("gdig.selection.cluster_stage:label_rows_on_ranks", 1),
}
"""The moments at which runs are stopped: a method, and its how manieth call."""


def make_all(root: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Make the inputs, and return the options of the run and of the other run; both go to `root`."""
    from tests.conftest import make_tokenizer
    from tests.support.project_fixtures import make_project, translation_rows, write_jsonl

    project = make_project(root, make_tokenizer())
    evaluation = write_jsonl(root / "evaluation.jsonl", translation_rows()[5:9])
    more = {"exclude": (str(evaluation),), "source_field": "src_lang"}  # each leaves files of its own
    options = project.options(root / "finished", method="gdig", token_batch_size=128, **more)
    other_pool = write_jsonl(root / "other" / "pool.jsonl", translation_rows(random_seed=5))
    return options, {**options, "run_path": str(root / "other-run"), "candidates": (str(other_pool),)}


def choose(options: dict[str, Any], method: str, output: Path) -> tuple[list[int], bytes]:
    """Select by a method, with everything that is missing, and return the rows and the bytes of the output."""
    import gdig

    selection = gdig.select(**{**options, "method": method, "output": str(output)})
    return selection.rows.tolist(), output.read_bytes()


def finish(options: dict[str, Any], output: Path) -> dict[str, tuple[list[int], bytes]]:
    """Select by all methods; the run has then every file that they need. Return what each chose."""
    import gdig

    chosen = {method: choose(options, method, output) for method in METHODS}
    gdig.select(**options)
    return chosen


def stop(options: dict[str, Any], stage: str) -> None:
    """Work until a moment of a stage, after which there is work in progress; then die."""
    from tests.support.project_fixtures import SignalAt

    os.environ["GDIG_RESUME_INTERVAL"] = "0"
    SignalAt(*STOPS[stage]).arm()
    import gdig

    gdig.select(**options)
