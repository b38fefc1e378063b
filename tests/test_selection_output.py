"""What a user gets of a selection: formats of the rows, files, data sets, tables; options of the run it belongs to."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import gdig
from gdig.data.conversions import alternates, convert
from gdig.data.corpus import open_corpus
from gdig.data.dataset_info import remove_entry, write_entry
from gdig.data.export import export
from gdig.data.read_back import read_rows
from gdig.data.row_forms import Conversation, Pair, Pairs, RowError, WholeText, as_conversation
from gdig.errors import ConfigError, CorpusError, RunError
from gdig.selection.chosen_rows import read_chosen_rows
from gdig.selection.result import Selection
from tests.support.project_fixtures import read_jsonl

CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}
TALK = Conversation([
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "Bye.", "name": "a"},
])  # fmt: skip
TOOLS = Conversation(
    [
        {"role": "user", "content": "Rome?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "sun"},
        {"role": "assistant", "content": "Sunny."},
    ],
    tools=[{"name": "weather"}],
)
HISTORY = Pairs((Pair("a", "b"), Pair("c", "d")), system="s")


def test_rows_in_each_format() -> None:
    assert convert(TALK, "messages") == {"messages": TALK.turns}
    assert convert(TALK, "alpaca") == {
        "instruction": "Bye", "input": "", "output": "Bye.", "system": "Be kind.", "history": [["Hi", "Hello."]],
    }  # fmt: skip
    assert convert(TALK, "sharegpt") == {
        "conversations": [
            {"from": "human", "value": "Hi"},
            {"from": "gpt", "value": "Hello."},
            {"from": "human", "value": "Bye"},
            {"from": "gpt", "value": "Bye."},
        ],
        "system": "Be kind.",
        "tools": "",
    }
    tools = convert(TOOLS, "sharegpt")
    assert [turn["from"] for turn in tools["conversations"]] == ["human", "function_call", "observation", "gpt"]
    assert json.loads(tools["conversations"][1]["value"]) == {"name": "weather", "arguments": {"city": "Rome"}}
    assert json.loads(tools["tools"]) == [{"name": "weather"}]
    around = [{"type": "function", "function": {"name": "weather", "parameters": None}}, '{"name": "time"}']
    bare = convert(Conversation(TOOLS.turns, tools=around), "sharegpt")["tools"]
    assert json.loads(bare) == [{"name": "weather"}, {"name": "time"}]
    assert convert(TOOLS, "messages") == {"messages": TOOLS.turns, "tools": TOOLS.tools}
    assert convert(HISTORY, "alpaca") == {
        "instruction": "c", "input": "", "output": "d", "system": "s", "history": [["a", "b"]],
    }  # fmt: skip
    assert [turn["role"] for turn in convert(HISTORY, "messages")["messages"]] == [
        "system", "user", "assistant", "user", "assistant",
    ]  # fmt: skip
    no_prompt = Pairs((Pair("", "d"),))
    assert convert(no_prompt, "alpaca")["instruction"] == ""
    assert convert(no_prompt, "sharegpt")["conversations"][0] == {"from": "human", "value": ""}
    # As the row was rendered for its score: with an empty turn of the user.
    assert convert(no_prompt, "messages") == {"messages": as_conversation(no_prompt).turns}
    assert [turn["content"] for turn in as_conversation(no_prompt).turns] == ["", "d"]


def test_no_turn_is_added() -> None:
    """A row that begins with the assistant was scored without a turn of the user."""
    first = Conversation([{"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Hi"},
                          {"role": "assistant", "content": "Yes?"}])  # fmt: skip
    written = convert(first, "sharegpt")
    assert [turn["from"] for turn in written["conversations"]] == ["gpt", "human", "gpt"]
    assert not alternates(written) and not alternates(convert(first, "messages"))
    with pytest.raises(RowError, match="in alternation, got assistant, user, assistant"):
        convert(first, "alpaca")


def test_rows_that_llama_factory_reads_alternate() -> None:
    for form in (TALK, TOOLS, HISTORY, Pairs((Pair("", "d"),))):
        assert all(alternates(convert(form, name)) for name in ("messages", "sharegpt"))  # type: ignore[arg-type]
    twice = Conversation([*TALK.turns, {"role": "assistant", "content": "?"}])
    assert not alternates(convert(twice, "messages")) and not alternates(convert(twice, "sharegpt"))
    assert not alternates(convert(turns({"role": "user", "content": "x"}), "messages"))
    developer = Conversation([{"role": "developer", "content": "s"}, *TALK.turns[1:]])
    assert alternates(convert(developer, "sharegpt")) and not alternates(convert(developer, "messages"))


def turns(*items: dict[str, Any]) -> Conversation:
    return Conversation([{"role": "user", "content": "q"}, *items])


@pytest.mark.parametrize(
    ("form", "output_format", "message"),
    [
        (WholeText("t"), "messages", "a text without turns"),
        (Pairs((Pair("a", "b"),), own_template=True), "messages", "templates of your own"),
        (TOOLS, "alpaca", "no place for tools"),
        (turns({"role": "assistant", "content": "x", "weight": 0}), "sharegpt", "turn 1 of the assistant has no loss"),
        (turns({"role": "assistant", "content": "x", "train": False}), "alpaca", "turn 1 of the assistant has no loss"),
        (turns({"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}), "alpaca", "alternation"),
        (turns({"role": "assistant", "content": "x"}, {"role": "user", "content": "y"}), "alpaca", "ends with a turn"),
        (turns({"role": "critic", "content": "x"}), "sharegpt", "the role 'critic'"),
        (turns({"role": "assistant", "content": "x", "tool_calls": [CALL]}), "sharegpt", "beside a call"),
        (turns({"role": "assistant", "content": [{"type": "text"}]}), "sharegpt", "holds list, not text"),
        (turns({"role": "assistant", "content": "x", "reasoning_content": "r"}), "alpaca", "reasoning_content"),
    ],
)
def test_what_a_format_has_no_place_for_is_refused(form: Any, output_format: Any, message: str) -> None:
    with pytest.raises(RowError, match=message):
        convert(form, output_format)


def test_a_compressed_file_has_the_same_rows_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    pool = tmp_path / "pool.jsonl"
    pool.write_text('{"text": "é", "gdig": 1}\n{"text": "b"}\n', encoding="utf-8")
    corpus, columns = open_corpus([pool], cache_dir=tmp_path / "cache"), [{"row": np.int64(1)}, {"row": np.int64(0)}]
    written = []
    for _ in range(2):
        export(corpus, [1, 0], columns, tmp_path / "out.jsonl.gz")
        written.append((tmp_path / "out.jsonl.gz").read_bytes())
    assert written[0] == written[1]
    expected = [{"text": "b", "gdig": {"row": 1}}, {"text": "é", "gdig": {"row": 0}}]
    assert [json.loads(line) for line in gzip.decompress(written[0]).splitlines()] == expected
    assert list(read_rows(tmp_path / "out.jsonl.gz")) == expected
    for name in ("plain.jsonl", "plain.parquet"):
        export(corpus, [0, 1], None, tmp_path / name)
        assert list(read_rows(tmp_path / name)) == [{"text": "é"}, {"text": "b"}]


def test_the_entry_beside_others(tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text('{"a": {"file_name": "a.json"}}')
    assert write_entry(tmp_path / "b.parquet", "sharegpt") == tmp_path / "dataset_info.json"
    entries = json.loads((tmp_path / "dataset_info.json").read_text())
    assert list(entries) == ["a", "b"] and entries["b"]["file_name"] == "b.parquet"
    assert write_entry(tmp_path / "b.jsonl.gz", "sharegpt") is None
    for other in ("a.jsonl", "b.jsonl", "c.parquet"):  # entries of other files stay
        remove_entry(tmp_path / other)
    assert json.loads((tmp_path / "dataset_info.json").read_text()) == entries
    remove_entry(tmp_path / "b.parquet")
    assert list(json.loads((tmp_path / "dataset_info.json").read_text())) == ["a"]
    remove_entry(tmp_path / "new" / "b.parquet")
    assert not (tmp_path / "new").exists()
    for bad in ("[]", "{"):
        (tmp_path / "dataset_info.json").write_text(bad)
        with pytest.raises(CorpusError, match=r"dataset_info\.json: (expected an object|cannot be read as JSON)"):
            write_entry(tmp_path / "b.jsonl", "alpaca")
        assert (tmp_path / "dataset_info.json").read_text() == bad


@pytest.fixture
def run_path(swept_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return swept_copy


def test_the_options_of_the_run_hold(run_path: Path) -> None:
    selection = gdig.select(run_path=run_path, method="top", budget=5)
    assert (len(selection), selection.output) == (5, run_path / "selection.jsonl")
    lines = gdig.compare(run_path=str(run_path), methods=["top", "loss"], budget=5).lines()
    assert any("top" in line for line in lines)
    assert gdig.preview(run_path=run_path, rows=1)
    with pytest.raises(ConfigError, match="run_path: nowhere is no run directory"):
        gdig.select(run_path="nowhere", method="top")
    with pytest.raises(RunError):
        gdig.select(run_path=run_path, damping_factor=0.7)
    with pytest.raises(ConfigError, match="did you mean 'method'"):
        gdig.select(run_path=run_path, metod="top")  # type: ignore[call-arg]


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz", "out.parquet"])
def test_a_selection_as_data_set_and_as_frame(run_path: Path, name: str) -> None:
    selection = gdig.select(run_path=run_path, method="top", budget=6, output=name)
    rows = list(read_rows(Path(name)))
    assert read_chosen_rows(Path(name), 60).rows.tolist() == selection.rows.tolist()
    data = selection.to_dataset()
    assert [row["gdig"]["row"] for row in data] == selection.rows.tolist()
    assert [row["src_text"] for row in data] == [row["src_text"] for row in rows]
    plain = gdig.select(run_path=run_path, method="top", budget=6, output=f"plain-{name}", plain=True)
    assert "gdig" not in plain.to_dataset().column_names
    assert "without gdig" in gdig.explain(run_path=run_path, rows=[0], methods=["top"], model_pass=False).facts.notes[0]
    for frame in (selection.to_pandas(), plain.to_pandas()):
        assert frame["gdig.rank"].tolist() == [1, 2, 3, 4, 5, 6]
        assert frame["trg_text"].tolist() == [row["trg_text"] for row in rows]
        assert "gdig" not in frame.columns
    Path(name).unlink()
    with pytest.raises(CorpusError, match="the file is gone; select again"):
        selection.to_dataset()


def test_a_converted_selection(run_path: Path) -> None:
    whole = gdig.select(run_path=run_path, method="top", budget=4)
    selection = gdig.select(run_path=run_path, method="top", budget=4, format="messages", output="new/chosen.parquet")
    assert selection.rows.tolist() == whole.rows.tolist()
    for row, source in zip(pq.read_table("new/chosen.parquet").to_pylist(), read_jsonl(whole.output), strict=True):
        assert set(row) == {"messages", "gdig"}
        assert row["messages"][-1] == {"role": "assistant", "content": source["trg_text"]}
        assert source["src_text"] in row["messages"][-2]["content"]
    assert "chosen" in json.loads(Path("new/dataset_info.json").read_text())


def test_a_notebook_shows_escaped_text(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    output.write_text('{"text": "<script>alert(1)</script>"}\n' * 12)
    columns = [{"row": i, "score": None, "rank": i + 1, "loss": 0.123456, "tokens": 3} for i in range(12)]
    selection = Selection(np.arange(12), columns, output, ["12 of <b>20</b> rows"], ["a & b"])
    html = selection._repr_html_()
    assert "<script>" not in html and "&lt;script&gt;alert(1)" in html
    assert "12 of &lt;b&gt;20&lt;/b&gt; rows" in html and "a &amp; b" in html
    assert html.count("<tr>") == 11 and "2 more rows" in html
    assert "<th>score</th>" not in html and "0.1235" in html
    output.unlink()
    assert selection._repr_html_().count("<tr>") == 11
