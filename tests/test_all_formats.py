"""A pool of files of every format at once, through preview, select and a short training with TRL.

Target tokens are compared with an independent count: of the words of each answer, and of TRL's own masks.
"""

from __future__ import annotations

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

import gdig
from gdig.data.conversions import convert, has_silent_turns
from gdig.data.row_forms import WholeText
from tests.support.project_fixtures import llama_module, read_jsonl, save_model, stages, stored
from tests.test_row_formats import ROWS

SAYS = "{{ m.content }}{% for call in m.tool_calls or [] %}{{ call.function.name }}{% endfor %}{{ eos_token }}"
CHAT = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>"
    f"{SAYS}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
# The same text, with what the assistant says marked for TRL.
MARKED = CHAT.replace(
    SAYS,
    f"{{% if m.role == 'assistant' %}}{{% generation %}}{SAYS}{{% endgeneration %}}{{% else %}}{SAYS}{{% endif %}}",
)
ANSWERS = {
    "alpaca": ["2"], "alpaca without input": ["2"], "alpaca with history": ["Hello.", "2"],
    "alpaca as a table has it": ["Hello.", "2"], "alpaca with a blank history": ["2"], "dolly": ["2"],
    "completion": [" b"], "completion with empty prompt": ["b"], "gsm8k": ["It is 2\n#### 2"], "orca": ["2"],
    "question about a text": ["A"], "text": ["All of it."],
    "messages with an old call": ["weather"], "sharegpt": ["weather", "Welcome."],
    "messages of swift": ["weather", "Un."],
}  # fmt: skip
"""What each row is trained on, as one reads it. The answer of weight 0 is left out."""


def answers_of(case: str) -> list[str]:
    return ANSWERS.get(case, ["Yes."] if ROWS[case][1] == "translation" else ["Un."])


def count_of(tokenizer, case: str) -> int:
    """Tokens of the answers of a row. Each ends with the end mark, which is a token of its own: no token crosses the
    borders of an answer, because the marks of roles before it end with a bracket that no answer continues."""
    return sum(len(tokenizer(answer, add_special_tokens=False)["input_ids"]) + 1 for answer in answers_of(case))


def write(path, rows):
    """Every third file is JSONL, Parquet, and compressed JSON."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(json.dumps(rows).encode()))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def without_nulls(value):
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def mixed(project, tmp_path_factory, tokenizer_factory):
    """Options of a run over a file of each format, with a model whose tokenizer has a chat template."""
    root = tmp_path_factory.mktemp("mixed")
    tokenizer = tokenizer_factory()
    tokenizer.chat_template = CHAT
    model = save_model(root / "model", llama_module(len(tokenizer), window=512), tokenizer)
    endings = (".jsonl", ".parquet", ".json.gz")
    files = [write(root / f"{i:02}{endings[i % 3]}", [row] * 3) for i, (row, _, _) in enumerate(ROWS.values())]
    seeds = (files[0], files[-1], project.seeds)
    return project.options(root / "run", model=model, candidates=tuple(map(str, files)), seeds=tuple(map(str, seeds)))


def test_the_targets_of_every_format_are_those_of_an_independent_count(mixed, tokenizer_factory):
    tokenizer = tokenizer_factory()
    preview = gdig.preview(**{**mixed, "rows": 1})
    assert preview.error is None
    reports = preview.reports["candidates"]
    assert [report.format for report in reports] == [row_format for _, row_format, _ in ROWS.values()]
    for case, report in zip(ROWS, reports, strict=True):
        assert (report.bad, report.targets) == (0, 3 * count_of(tokenizer, case)), case


def test_a_pool_of_every_format_is_selected_from(mixed):
    selection = gdig.select(**{**mixed, "budget": "20", "method": "top", "repeats": "keep"})
    sweep = stored(mixed["run_path"])
    assert sweep["valid"].all() and len(sweep["valid"]) == 3 * len(ROWS)
    rows = [row for row, _, _ in ROWS.values() for _ in range(3)]
    chosen = read_jsonl(selection.output)
    assert len(chosen) == 20
    for row in chosen:
        number = row.pop("gdig")["row"]
        given = rows[number]
        assert without_nulls(row) == without_nulls(given)  # Parquet adds nulls for the keys of other turns
    assert {"chat template", "whole text"} == {*stages(mixed["run_path"])["fit"]["renderings"]["candidates"]}


@pytest.mark.slow
def test_trl_trains_on_a_pool_of_every_format(mixed, tokenizer_factory, tmp_path):
    """As tokens: every form in one data set, and as many labels as its answers have."""
    trl = pytest.importorskip("trl", reason="TRL is not installed")
    tokenizer = tokenizer_factory()
    selection = gdig.select(
        **{
            **mixed,
            "budget": "100%",
            "method": "top",
            "repeats": "keep",
            "format": "tokens",
            "output": str(tmp_path / "tokens.jsonl"),
        }
    )
    dataset = selection.to_dataset()
    assert len(dataset) == 3 * len(ROWS) and not (tmp_path / "dataset_info.json").exists()
    options = trl.SFTConfig(
        output_dir=str(tmp_path / "tuned"), use_cpu=True, bf16=False, max_steps=2, report_to="none", save_strategy="no"
    )
    trainer = trl.SFTTrainer(model=str(mixed["model"]), train_dataset=dataset, args=options)
    trainer.train()
    assert trainer.state.global_step == 2 and trainer.state.log_history[-1]["train_loss"] > 0
    cases = [case for case in ROWS for _ in range(3)]
    for row, chosen in zip(trainer.train_dataset, dataset, strict=True):
        assert len(row["input_ids"]) == chosen["gdig"]["tokens"]
        assert all(label in (-100, token) for token, label in zip(row["input_ids"], row["labels"], strict=True))
        labels = [label for label in row["labels"][1:] if label != -100]
        assert len(labels) == count_of(tokenizer, cases[chosen["gdig"]["row"]])


@pytest.mark.slow
def test_trl_masks_converted_rows_as_gdig_does(mixed, tokenizer_factory, tmp_path):
    """As messages: TRL's own rendering and its own masks. It has no place for texts, and for turns without loss."""
    trl = pytest.importorskip("trl", reason="TRL is not installed")
    tokenizer = tokenizer_factory()
    tokenizer.chat_template = MARKED
    forms = {case: form for case, (_, _, form) in ROWS.items() if not isinstance(form, WholeText)}
    rows = {case: convert(form, "messages") for case, form in forms.items()}
    rows = {case: row for case, row in rows.items() if not has_silent_turns(row)}
    assert len(rows) > 20
    for with_tools in (False, True):
        some = {case: row for case, row in rows.items() if ("tools" in row) == with_tools}
        trainer = trl.SFTTrainer(
            model=str(mixed["model"]), processing_class=tokenizer, train_dataset=Dataset.from_list(list(some.values())),
            args=trl.SFTConfig(
                output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none", assistant_only_loss=True
            ),
        )  # fmt: skip
        for case, row in zip(some, trainer.train_dataset, strict=True):
            assert sum(label != -100 for label in row["labels"]) == count_of(tokenizer, case), case
