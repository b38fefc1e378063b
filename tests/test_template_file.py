"""A chat template of one's own: its file, what it renders, and what a run records of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import gdig
from gdig.config.config import Config
from gdig.data.sandbox import MOST_SOURCE
from gdig.data.template_file import read_chat_template
from gdig.errors import ConfigError, ModelError, RunError
from gdig.progress import Progress
from gdig.run.session import Workspace
from tests.support.project_fixtures import Project, stages, write_jsonl

OWN = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}"
ROWS = [
    {"messages": [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": f"It is {i}."}]}
    for i in range(20)
]


@pytest.fixture
def options(project: Project, tmp_path: Path) -> dict[str, Any]:
    """Of a run over conversations, with a model whose tokenizer has no chat template."""
    template = tmp_path / "own.jinja"
    template.write_text(OWN, encoding="utf-8-sig")  # with a byte order mark
    pool, seeds = write_jsonl(tmp_path / "pool.jsonl", ROWS), write_jsonl(tmp_path / "seeds.jsonl", ROWS[:5])
    files = {"candidates": [str(pool)], "seeds": [str(seeds)], "chat_template_file": str(template)}
    return project.options(tmp_path / "run", gradients=False, **files)


def test_rows_go_through_it(options: dict[str, Any]) -> None:
    preview = gdig.preview(**{**options, "rows": 1})
    assert preview.error is None and "by chat template own.jinja" in str(preview)
    with Workspace(Config.build(options), Progress(quiet=True)) as work:
        (example,) = work.encoder.encode(work.candidates, [3])
        assert work.tokenizer.decode(example.input_ids) == "[user]3?</s>[assistant]It is 3.</s>"
        assert work.tokenizer.decode(example.input_ids[example.labels != -100]) == "It is 3.</s>"
    with pytest.raises(ModelError, match="no chat template, which rows with messages need; give chat_template_file"):
        gdig.preview(**{**options, "chat_template_file": None})


def test_a_run_records_it_and_refuses_another(options: dict[str, Any], tmp_path: Path) -> None:
    gdig.fit(**options)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert set(record["inputs"]["chat_template_file"]) == {"own.jinja"}
    assert record["config"]["chat_template_file"] == options["chat_template_file"]
    assert stages(tmp_path / "run")["fit"]["renderings"]["candidates"] == ["chat template own.jinja"]
    gdig.fit(run_path=options["run_path"])  # the run knows its template
    Path(options["chat_template_file"]).write_text(OWN.replace("[", "<"), encoding="utf-8")
    with pytest.raises(RunError, match=r"chat_template_file: own\.jinja changed since the run began"):
        gdig.fit(run_path=options["run_path"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is blank, expected a Jinja chat template"),
        (b"{% for %}", "the chat template, line 1: "),
        (b"\xff", "not UTF-8: byte 0xff"),
        (b"x" * (MOST_SOURCE + 1), "line 1: 1,048,577 characters, expected at most 1,048,576"),
        (b"x" * (4 * MOST_SOURCE + 1), "expected a template of at most 1,048,576 characters"),
        (None, "no such file; give a file with a Jinja chat template"),
    ],
)
def test_a_file_that_is_no_template_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "t.jinja"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"^chat_template_file: {re.escape(str(path))}: (.* )?{message}"):
        read_chat_template(path)


def test_limits_hold_for_it(options: dict[str, Any]) -> None:
    Path(options["chat_template_file"]).write_text("{% for i in range(999999999) %}{% endfor %}" + OWN)
    error = gdig.preview(**{**options, "rows": 1}).error
    assert error is not None and "the chat template" in str(error)


def test_options_that_exclude_it(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="chat_template=False: expected true beside chat_template_file"):
        Config.build({**options, "chat_template": False})
    with pytest.raises(ConfigError, match="expected no file beside prompt_template"):
        Config.build({**options, "prompt_template": "a", "target_template": "b"})
