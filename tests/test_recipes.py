"""The code of docs/training.md, run as it stands: TRL's SFTTrainer, transformers' Trainer, LLaMA-Factory's format."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import gdig
from tests.support.packages import require_package
from tests.support.project_fixtures import TINY, llama_module, pairs, save_model, write_jsonl
from tests.support.swept_run import make_swept

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "training.md").read_text(encoding="utf-8")
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<s>{% generation %}{{ m.content }}"
    "{% for call in m.tool_calls or [] %}{{ call.function.name }}{{ call.function.arguments | tojson }}{% endfor %}"
    "</s>{% endgeneration %}"
    "{% else %}<s>{{ m.content }}</s>{% endif %}{% endfor %}"
)


TOOLS = [
    {"type": "function", "function": {"name": "look_up", "description": "A word.", "parameters": {"type": "object"}}}
]


def call_of(zh: str, en: str) -> list[dict[str, Any]]:
    """A question, a call of a tool with the tool's answer, and the answer."""
    function = {"name": "look_up", "arguments": {"word": zh, **({"n": 2} if len(en) % 2 else {})}}
    return [
        {"role": "user", "content": f"{zh}?"},
        {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": function}]},
        {"role": "tool", "content": en},
        {"role": "assistant", "content": f"It is {en}."},
    ]


def code(heading: str, language: str = "python") -> str:
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    return "\n".join(re.findall(rf"```{language}\n(.*?)```", section, re.S))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer_factory: Any) -> Path:
    """A folder as the page has it: models/base, a swept run over conversations in runs/a, and one with tools."""
    root, tokenizer = tmp_path_factory.mktemp("recipes"), tokenizer_factory()
    tokenizer.chat_template = TEMPLATE
    save_model(root / "models" / "base", llama_module(len(tokenizer), window=256), tokenizer)
    rows = [
        {
            "messages": [
                {"role": "system", "content": "Hotel"},
                {"role": "user", "content": zh},
                {"role": "assistant", "content": en},
                {"role": "user", "content": f"{zh}?"},
                {"role": "assistant", "content": f"{en}!"},
            ],
            "id": i,
        }
        for i, (zh, en) in enumerate(pairs(40, 3))
    ]
    with_tools = [{"tools": TOOLS, "messages": [*call_of(zh, en), *row["messages"][1:]]}
                  for row, (zh, en) in zip(rows, pairs(40, 4), strict=True)]  # fmt: skip
    for name, some in (("a", rows), ("tools", with_tools)):
        pool, seeds = (
            write_jsonl(root / name / "pool.jsonl", some[:35]),
            write_jsonl(root / name / "s.jsonl", some[35:]),
        )
        make_swept({
            **TINY, "model": str(root / "models" / "base"), "candidates": [str(pool)], "seeds": [str(seeds)],
            "run_path": str(root / "runs" / name), "gradients": True,
        })  # fmt: skip
    return root


@pytest.fixture
def in_folder(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the model and the run of `folder`. What a recipe writes goes elsewhere."""
    for name in ("models", "runs"):
        (tmp_path / name).symlink_to(folder / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(source: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "recipe"}
    exec(source, names)
    return names


def test_trl(in_folder: Path) -> None:
    require_package("trl")
    source = code("TRL").replace(
        'output_dir="tuned/trl"', 'output_dir="tuned/trl", use_cpu=True, bf16=False, max_steps=2'
    )
    names = run(source)
    trainer, selection = names["trainer"], names["selection"]
    assert trainer.state.global_step == 2 and trainer.state.log_history[-1]["train_loss"] > 0
    # What TRL trains on is what gdig has measured: as many tokens in a row, and the answers alone.
    tokenizer = trainer.processing_class
    for row, column in zip(trainer.train_dataset, selection.columns, strict=True):
        assert len(row["input_ids"]) == column["tokens"]
    contents = selection.to_dataset()
    for row, content in zip(trainer.train_dataset, contents, strict=True):
        trained = [token for token in row["labels"] if token != -100]
        answers = [turn["content"] for turn in content["messages"] if turn["role"] == "assistant"]
        assert tokenizer.decode(trained) == "".join(f"{answer}</s>" for answer in answers)


def test_tokens_are_trained_on_as_they_were_measured(in_folder: Path) -> None:
    require_package("trl")
    source = code("Tokens, for a pool of many forms").replace(
        'output_dir="tuned/tokens"', 'output_dir="tuned/tokens", use_cpu=True, bf16=False, max_steps=2'
    )
    names = run(source)
    trainer, selection = names["trainer"], names["selection"]
    assert trainer.state.global_step == 2
    assert [len(row["input_ids"]) for row in trainer.train_dataset] == [x["tokens"] for x in selection.columns]
    whole = gdig.select(run_path="runs/a", budget=8, output="whole.jsonl").to_dataset()
    for row, content in zip(trainer.train_dataset, whole, strict=True):
        trained = [token for token in row["labels"] if token != -100]
        answers = [turn["content"] for turn in content["messages"] if turn["role"] == "assistant"]
        assert trainer.processing_class.decode(trained) == "".join(f"{answer}</s>" for answer in answers)


def test_the_trainer_of_transformers(in_folder: Path) -> None:
    source = code("transformers' Trainer")
    names = run(source.replace('output_dir="tuned/trainer"', 'output_dir="tuned/trainer", use_cpu=True, max_steps=2'))
    assert names["trainer"].state.global_step == 2
    for row, column in zip(names["rows"], names["selection"].columns, strict=True):
        assert len(row["input_ids"]) == column["tokens"]
        assert 0 < sum(label != -100 for label in row["labels"]) < column["tokens"]


def load_as_documented(dataset_dir: Path, name: str) -> list[dict[str, Any]]:
    """Rows as LLaMA-Factory's data/README.md says that it reads them: (prompt turns and response), system, tools."""
    info = json.loads((dataset_dir / "dataset_info.json").read_text())[name]
    lines = (dataset_dir / info["file_name"]).read_text(encoding="utf-8").splitlines()
    columns, tags = info["columns"], info.get("tags", {})
    conversations = []
    for row in map(json.loads, lines):
        system = row.get(columns.get("system", "system")) or ""
        if info["formatting"] == "alpaca":
            query = row[columns["query"]]
            turns = [turn for pair in row[columns["history"]] for turn in pair]
            turns += [row[columns["prompt"]] + (f"\n{query}" if query else ""), row[columns["response"]]]
        else:
            role, content = tags.get("role_tag", "from"), tags.get("content_tag", "value")
            messages = row[columns["messages"]]
            if messages[0][role] == tags.get("system_tag", "system"):
                system, messages = messages[0][content], messages[1:]
            odd = {tags.get("user_tag", "human"), tags.get("observation_tag", "observation")}
            even = {tags.get("assistant_tag", "gpt"), tags.get("function_tag", "function_call")}
            assert all(turn[role] in (even if i % 2 else odd) for i, turn in enumerate(messages))
            turns = [turn[content] for turn in messages]
        assert len(turns) % 2 == 0
        tools = row[columns["tools"]] if "tools" in columns else ""
        conversations.append({"system": system, "turns": turns, "tools": tools})
    return conversations


@pytest.mark.parametrize("output_format", ["alpaca", "sharegpt", "messages"])
def test_llama_factory(in_folder: Path, output_format: str) -> None:
    settings = yaml.safe_load(code("LLaMA-Factory", "yaml"))
    (in_folder / "data").mkdir()
    (in_folder / "data" / "dataset_info.json").write_text('{"mine": {"file_name": "mine.json"}}')
    run(code("LLaMA-Factory").replace('format="alpaca"', f"format={output_format!r}"))
    loaded = load_as_documented(Path(settings["dataset_dir"]), settings["dataset"])
    selection = gdig.select(run_path="runs/a", budget=8, output="whole.jsonl")
    for row, content in zip(loaded, selection.to_dataset(), strict=True):
        assert [row["system"], *row["turns"]] == [turn["content"] for turn in content["messages"]]
    entries = json.loads((in_folder / "data" / "dataset_info.json").read_text())
    assert entries["mine"] == {"file_name": "mine.json"}


def test_llama_factory_reads_rows_with_tools(in_folder: Path) -> None:
    options: dict[str, Any] = {"run_path": "runs/tools", "budget": 6, "plain": True, "output": "data/chosen.jsonl"}
    gdig.select(**options, format="sharegpt")
    loaded = load_as_documented(Path("data"), "chosen")
    whole = gdig.select(run_path="runs/tools", budget=6, output="whole.jsonl").to_dataset()
    for row, content in zip(loaded, whole, strict=True):
        assert json.loads(row["tools"]) == [TOOLS[0]["function"]]
        asked, call, *others = content["messages"]
        assert json.loads(row["turns"][1]) == call["tool_calls"][0]["function"]
        assert [row["turns"][0], *row["turns"][2:]] == [asked["content"], *(turn["content"] for turn in others)]
    # LLaMA-Factory reads role and content alone from messages: their file is named no longer.
    gdig.select(**options, format="messages")
    assert "chosen" not in json.loads((in_folder / "data" / "dataset_info.json").read_text())


def test_axolotl(in_folder: Path) -> None:
    """Turns as Axolotl's documentation says that type chat_template reads them; the assistant's are trained on."""
    (settings,) = yaml.safe_load(code("Axolotl", "yaml"))["datasets"]
    assert (settings["type"], settings["ds_type"]) == ("chat_template", "json")
    run(code("Axolotl"))
    tags = settings["message_property_mappings"]
    lines = Path(settings["path"]).read_text(encoding="utf-8").splitlines()
    selection = gdig.select(run_path="runs/a", budget=8, output="whole.jsonl")
    for row, content in zip(map(json.loads, lines), selection.to_dataset(), strict=True):
        turns = [(turn[tags["role"]], turn[tags["content"]]) for turn in row[settings["field_messages"]]]
        assert turns == [(turn["role"], turn["content"]) for turn in content["messages"]]
        assert {role for role, _ in turns} == {"system", "user", "assistant"}
        assert set(row) == {"messages"}, "Axolotl would read other columns of a plain row"


@pytest.mark.parametrize("name", ["chosen.jsonl", "chosen.parquet"])
def test_a_chat_template_gives_the_measured_text_of_rows_with_tools(in_folder: Path, name: str) -> None:
    """Columns give each call the arguments of all others, with null; a data set of a selection is without these."""
    from transformers import AutoTokenizer

    selection = gdig.select(run_path="runs/tools", budget=20, format="messages", plain=True, output=name)
    tokenizer = AutoTokenizer.from_pretrained("models/base")
    rows = selection.to_dataset()

    def encode(row: dict[str, Any]) -> dict[str, Any]:
        encoded = tokenizer.apply_chat_template(row["messages"], tools=row["tools"], return_dict=True)
        return {"ids": encoded["input_ids"]}

    tokens = rows.map(encode, remove_columns=rows.column_names)
    assert [len(row["ids"]) for row in tokens] == [column["tokens"] for column in selection.columns]
    arguments = [row["messages"][1]["tool_calls"][0]["function"]["arguments"] for row in rows]
    assert {tuple(x) for x in arguments} == {("word",), ("word", "n")}
