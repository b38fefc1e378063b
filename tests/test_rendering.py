"""How rows become text: by the chat template or without it; what is recorded, and what is warned of."""

from __future__ import annotations

import json
from datetime import date

import numpy as np
import pytest

import gdig
from gdig.config.config import Config
from gdig.config.options import DataOptions
from gdig.data.corpus import open_corpus
from gdig.data.rendering import make_prompter, rendered_otherwise
from gdig.data.row_formats import make_reader
from gdig.data.tokens import Encoder
from gdig.errors import ConfigError
from gdig.planning.run_plan import make_plan
from gdig.progress import Progress
from gdig.run.session import Workspace
from tests.support.project_fixtures import edit_record, stages, write_jsonl

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Without tokens that the model does not have.
DATED = (
    "{{ strftime_now('%Y-%m-%d') }}\n{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)

ROWS = {
    "completion": ({"prompt": "One?", "completion": "Un."}, "user\nOne?", "Un."),
    "instruction": (
        {"system": "Be brief.", "instruction": "Add.", "input": "1 + 1", "output": "2", "history": [["Hi", "Ho"]]},
        "system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHo<|im_end|>\n"
        "<|im_start|>user\nAdd.\n1 + 1", "2",
    ),
    "question": ({"question": "One?", "answer": "Un."}, "user\nOne?", "Un."),
    "translation": (
        {"src_lang": "French", "trg_lang": "English", "src_text": "Un.", "trg_text": "One."}, None, "One."
    ),
}  # fmt: skip


@pytest.fixture
def chat_tokenizer(tokenizer_factory):
    def make(template=CHATML):
        tokenizer = tokenizer_factory()
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
        tokenizer.chat_template = template
        return tokenizer

    return make


def prompted(tokenizer, row_format, row, **options):
    reader = make_reader(row_format, DataOptions(**options), row)
    return make_prompter(DataOptions(**options), tokenizer, [reader], date(2026, 1, 31))(reader(row))


@pytest.mark.parametrize("name", ROWS)
def test_pairs_become_turns_where_the_tokenizer_has_a_template(name, chat_tokenizer, tiny_tokenizer):
    row, conversation, target = ROWS[name]
    chat = prompted(chat_tokenizer(), name, row)
    assert chat.is_chat and chat.text[slice(*chat.targets[-1])] == f"{target}<|im_end|>"
    head = chat.text[: chat.targets[-1][0]]
    assert head.endswith("<|im_end|>\n<|im_start|>assistant\n")
    if conversation is not None:
        assert head == f"<|im_start|>{conversation}<|im_end|>\n<|im_start|>assistant\n"
    for plain in (prompted(chat_tokenizer(), name, row, chat_template=False), prompted(tiny_tokenizer, name, row)):
        assert not plain.is_chat and "<|im_start|>" not in plain.text and plain.text.endswith(target)


def test_every_answer_of_a_history_is_trained_on(chat_tokenizer):
    chat = prompted(chat_tokenizer(), "instruction", ROWS["instruction"][0])
    assert [chat.text[a:b] for a, b in chat.targets] == ["Ho<|im_end|>", "2<|im_end|>"]


def test_texts_and_own_templates_stay_as_they_are(chat_tokenizer):
    text = prompted(chat_tokenizer(), "text", {"text": "A <|im_start|> B"})
    assert not text.is_chat and text.text == "A <|im_start|> B" and text.targets == ((0, 16),)
    own = prompted(chat_tokenizer(), "template", {"q": "a"}, prompt_template="{{ q }}:", target_template="{{ q }}")
    assert not own.is_chat and own.text == "a:a" and own.targets == ((2, 3),)


def test_conversations_need_the_option(chat_tokenizer):
    with pytest.raises(ConfigError, match="chat_template: rows of the format messages need it; leave the option on"):
        Encoder(DataOptions(chat_template=False), "messages", chat_tokenizer(), 99)


def test_an_encoder_says_how_it_renders(chat_tokenizer, tiny_tokenizer):
    def of(row_format, tokenizer, **options):
        return Encoder(DataOptions(**options), row_format, tokenizer, 99).renderings

    own = {"prompt_template": "a", "target_template": "b"}
    assert of("completion", chat_tokenizer()) == of("messages", chat_tokenizer()) == ("chat template",)
    assert (
        of("completion", chat_tokenizer(), chat_template=False) == of("completion", tiny_tokenizer) == ("plain text",)
    )
    assert of("template", chat_tokenizer(), **own) == ("own templates",)
    assert of("text", chat_tokenizer()) == ("whole text",) and of("tokens", None) == ("tokens",)


def test_seeds_rendered_otherwise_are_warned_of():
    assert rendered_otherwise({"candidates": ("chat template", "whole text"), "seeds": ("whole text",)}) is None
    warning = rendered_otherwise({"candidates": ("chat template",), "seeds": ("plain text", "chat template")})
    assert warning is not None and warning.startswith("seeds: rendered as plain text, the pool as chat template; ")


def test_tokens_of_a_pair_are_those_of_transformers(chat_tokenizer, tmp_path):
    """Against apply_chat_template: the ids of the whole, and as many labels as the answer and its end mark have."""
    tokenizer = chat_tokenizer()
    tokenizer.eos_token = "<|im_end|>"
    rows = [{"prompt": f"The cat {i}?", "completion": f" sat on the mat {i}. "} for i in range(5)]
    corpus = open_corpus([write_jsonl(tmp_path / "pool.jsonl", rows)], cache_dir=tmp_path / "cache")
    examples = Encoder(DataOptions(), "completion", tokenizer, 99).encode(corpus, range(5))
    for row, example in zip(rows, examples, strict=True):
        turns = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]
        ids = tokenizer.apply_chat_template(turns, return_dict=True)["input_ids"]
        head = tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, return_dict=True)["input_ids"]
        assert example.input_ids.tolist() == ids[: len(example)] and tokenizer.decode(ids[len(example) :]) == "\n"
        assert np.flatnonzero(example.labels != -100).tolist() == list(range(len(head), len(example)))


@pytest.fixture
def inputs(project, tokenizer_factory, tmp_path):
    """A project whose tokenizer has a chat template that writes the date."""
    tokenizer = tokenizer_factory()
    tokenizer.chat_template = DATED
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    seeds = write_jsonl(tmp_path / "seeds.jsonl", [{"text": f"The cat {i} sat."} for i in range(5)])
    return project.options(tmp_path / "run", seeds=[str(seeds)], tokenizer=str(tmp_path / "tokenizer"))


def test_a_run_records_how_its_rows_become_text(inputs, tmp_path, monkeypatch):
    warnings = []
    monkeypatch.setattr(Progress, "warn", lambda self, text: warnings.append(text))
    plan = make_plan(Workspace(Config.build(inputs), Progress(quiet=True)))
    assert "text: the pool as chat template, the seeds as whole text" in str(plan)
    assert any(note.startswith("seeds: rendered as whole text, the pool as chat template") for note in plan.notes)
    gdig.fit(**{**inputs, "gradients": False})
    fit = stages(tmp_path / "run")["fit"]
    assert fit["renderings"] == {"candidates": ["chat template"], "seeds": ["whole text"]}
    assert fit["warnings"][0].startswith("seeds: rendered as whole text, the pool as chat template")
    assert warnings[0] == fit["warnings"][0]


def test_the_date_is_that_of_the_run(inputs, tmp_path):
    """A run that goes on the next day, and each of its workers, renders the date on which its fit began."""
    gdig.fit(**{**inputs, "gradients": False})
    file = tmp_path / "run" / "run.json"
    record = json.loads(file.read_text())
    assert record["date"] == date.today().isoformat()
    edit_record(tmp_path / "run", lambda state: state.update(date="2025-03-01"))
    with Workspace(Config.build({**inputs, "gradients": False}), Progress(quiet=True)) as work:
        assert work.today == date(2025, 3, 1)
        example = work.encoder.encode(work.candidates, [0])[0]
        assert work.tokenizer.decode(example.input_ids).startswith("2025-03-01\n")
    assert json.loads(file.read_text())["date"] == "2025-03-01"
    gdig.fit(**{**inputs, "gradients": False, "overwrite": True})  # a new fit has its own day
    assert json.loads(file.read_text())["date"] == date.today().isoformat()
