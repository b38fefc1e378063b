"""Turns whose text a chat template leaves out: an error where it has no such role, else counted and said."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest

import gdig
from gdig.data.chat import ChatPrompter
from gdig.data.row_forms import Conversation, RowError
from gdig.progress import Progress
from tests.support.conversations import assistant, system, user
from tests.support.project_fixtures import Project, write_jsonl
from tests.test_chat_templates import FOLDER, Tokenizer

# As Mistral's templates do it: what the system says stands before the last turn, if that is the user's.
LAST = (
    "{% set ns = namespace(system='') %}{% for m in messages %}"
    "{% if m.role == 'system' %}{% set ns.system = m.content %}"
    "{% elif m.role == 'user' %}[INST]{% if loop.last %}{{ ns.system }}{% endif %}{{ m.content }}[/INST]"
    "{% elif m.role == 'assistant' %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)


def prompter(name: str) -> ChatPrompter:
    return ChatPrompter(Tokenizer((FOLDER / f"{name}.jinja").read_text(encoding="utf-8")), date(2026, 1, 31))  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "is_whole"), [("mistral-v3", False), ("mistral-v1", True), ("qwen2.5", True)])
def test_what_a_template_leaves_out_of_other_turns_is_noted(name: str, is_whole: bool) -> None:
    prompted = prompter(name)(Conversation([system("Whisper."), user("One?"), assistant("Un.")]))
    assert ("Whisper." in prompted.text) == prompted.is_whole == is_whole


@pytest.mark.parametrize("role", ["developer", "critic"])
def test_a_role_that_the_template_does_not_have_is_an_error(role: str) -> None:
    turns = [{"role": role, "content": "Whisper."}, user("One?"), assistant("Un.")]
    with pytest.raises(RowError, match=f"turn 0: the chat template has no role '{role}', and leaves the turn out"):
        prompter("qwen2.5")(Conversation(turns))


def test_such_rows_are_counted_and_a_run_warns(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t.jinja").write_text(LAST)
    rows = [{"messages": [user(f"{i}?"), assistant(f"It is {i}.")]} for i in range(20)]
    some = [{"messages": [system("Whisper."), *row["messages"]]} for row in rows[:3]]
    files: dict[str, Any] = {
        "candidates": [str(write_jsonl(tmp_path / "pool.jsonl", rows + some))],
        "seeds": [str(write_jsonl(tmp_path / "seeds.jsonl", rows[:4] + some[:1]))],
        "chat_template_file": str(tmp_path / "t.jinja"),
    }
    options = project.options(tmp_path / "run", gradients=False, **files)
    preview = gdig.preview(**{**options, "rows": 1})
    assert preview.error is None
    assert [preview.reports[name][0].not_whole for name in ("candidates", "seeds")] == [3, 1]
    assert "in 3 rows the chat template leaves out the text of a turn" in str(preview)
    warnings: list[str] = []
    monkeypatch.setattr(Progress, "warn", lambda self, text: warnings.append(text))
    gdig.fit(**options)
    assert any("in 3 rows of the pool and 1 seed;" in warning for warning in warnings)
