"""What differs between the run in a directory and what a start asks."""

from __future__ import annotations

from typing import Any

from gdig.config.config import Config
from gdig.config.options import STAGE_GROUPS, STAGES
from gdig.errors import OtherRunError
from gdig.run.layout import RunLayout
from gdig.run.pool_files import CANDIDATES, are_appended
from gdig.run.record import RunRecord

# Compared by content, not by name: moving a pool does not change it.
_BY_CONTENT = ("model", "base_model", "candidates", "seeds", "tokenizer", "chat_template_file")
# What names a training checkpoint's folder (gdig.passes.training_checkpoints): another checkpoint stands beside it.
_BY_FOLDER = ("checkpoints", "feature_side")


def compare_run(
    layout: RunLayout, record: RunRecord, config: Config, inputs: dict[str, dict[str, Any]]
) -> tuple[RunRecord, str | None]:
    """Compare a run with what is asked now.

    Returns:
        The record without the stages that have left nothing and differ; and the first stage that differs.

    Raises:
        RunError: when a stage differs and `overwrite` is off.
    """
    begun = {name: stage for name in STAGES if (stage := getattr(record.stages, name)) is not None}
    bare = [name for name, stage in begun.items() if stage.is_bare]
    inputs_before = record.inputs if len(begun) > len(bare) else {}
    for name in bare:  # it began and left nothing, an error in the options perhaps: no reason to refuse others
        if begun[name].config != stage_config(config, name):
            record = record.with_stage(name, None)
            del begun[name]
    differences = {"fit": _input_differences(inputs_before, inputs)} if inputs_before else {}
    for name in STAGES[:-1]:
        then = begun[name].config if name in begun else {}
        now = stage_config(config, name)
        keys = {**then, **now} if name in begun else {}
        lines = [
            f"{k}: {then.get(k, 'nothing')!r} in the run, {now.get(k, 'nothing')!r} now"
            for k in keys
            if (k in then, then.get(k)) != (k in now, now.get(k))
        ]
        if lines:
            differences[name] = differences.get(name, []) + lines
    first = next((name for name in STAGES if differences.get(name)), None)
    if first is not None and not config.overwrite:
        lines_shown = "\n".join(f"  {line}" for name in STAGES for line in differences.get(name, []))
        raise OtherRunError(
            f"{layout.path} holds a run with another configuration or other inputs:\n{lines_shown}\n"
            f"Use another --run-path, or --overwrite to start over from the {first} stage."
            + _advice(record, inputs_before, inputs)
        )
    return record, first


def _advice(record: RunRecord, then: dict[str, dict], now: dict[str, dict]) -> str:
    """What to do where files of the pool are new, and could be appended."""
    before, files = then.get(CANDIDATES, {}), now.get(CANDIDATES, {})
    if len(files) <= len(before) or not all(files.get(name) == before[name] for name in before):
        return ""
    if are_appended(before, files):
        return " Files can be appended once the sweep of those before them is done."
    return " New files can be appended: give them after those of the run, in the order " + ", ".join(before) + "."


def stage_config(config: Config, name: str) -> dict[str, Any]:
    """Return the options that a stage's result depends on, beside those whose content or folder is compared."""
    values = {k: v for group in STAGE_GROUPS[name] for k, v in config.group(group).items()}
    return {k: v for k, v in values.items() if k not in _BY_CONTENT + _BY_FOLDER}


def _input_differences(then: dict[str, dict], now: dict[str, dict]) -> list[str]:
    """Name the input files that are new, gone or changed."""
    lines = []
    for kind in {**then, **now}:
        before, files = then.get(kind, {}), now.get(kind, {})
        differing = [n for n in [*before, *(n for n in files if n not in before)] if before.get(n) != files.get(n)]
        if kind == CANDIDATES:
            # The last files of a pool may be left out, so they explain nothing where another file differs.
            last = max((place for place, name in enumerate(before) if name in files), default=len(before))
            omitted = list(before)[last + 1 :]
            differing = [name for name in differing if name not in omitted] or differing
        for name in differing:
            what = "is gone" if name not in files else "is new" if name not in before else "changed"
            lines.append(f"{kind}: {name} {what} since the run began")
        if not lines and list(before) != list(files):
            lines.append(f"{kind}: the files come in another order than when the run began")
    return lines
