"""A pool of files of every format at once, through preview and select; target tokens against an independent count."""

from __future__ import annotations

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import gdig
from tests.support.project_fixtures import llama_module, read_jsonl, save_model, stages, stored
from tests.test_row_formats import ROWS

CHAT = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for call in m.tool_calls or [] %}{{ call.function.name }}{% endfor %}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
ANSWERS = {
    "alpaca": ["2"], "alpaca without input": ["2"], "alpaca with history": ["Hello.", "2"], "dolly": ["2"],
    "completion": [" b"], "completion with empty prompt": ["b"], "gsm8k": ["It is 2\n#### 2"], "orca": ["2"],
    "question about a text": ["A"], "text": ["All of it."],
    "messages with an old call": ["weather"], "sharegpt": ["weather", "Welcome."],
}  # fmt: skip
"""What each row is trained on, as one reads it. The answer of weight 0 is left out."""


def answers_of(case: str) -> list[str]:
    return ANSWERS.get(case, ["Yes."] if ROWS[case][1] == "translation" else ["Un."])


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
    """Each answer ends with the end mark, which is a token of its own: no token crosses the borders of an answer,
    because the marks of roles before it end with a bracket that no answer continues."""
    tokenizer = tokenizer_factory()
    preview = gdig.preview(**{**mixed, "rows": 1})
    assert preview.error is None
    reports = preview.reports["candidates"]
    assert [report.format for report in reports] == [row_format for _, row_format, _ in ROWS.values()]
    for case, report in zip(ROWS, reports, strict=True):
        expected = sum(len(tokenizer(answer, add_special_tokens=False)["input_ids"]) + 1 for answer in answers_of(case))
        assert (report.bad, report.targets) == (0, 3 * expected), case


def test_a_pool_of_every_format_is_selected_from(mixed):
    selection = gdig.select(**{**mixed, "budget": "20", "method": "top"})
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
