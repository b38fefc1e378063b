"""Preview: what is masked and what is target can be told apart with and without colour."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

from gdig.config.options import DataOptions
from gdig.data.corpus import open_corpus
from gdig.data.preview import preview_rows
from gdig.data.tokens import Encoder


@pytest.fixture
def preview(tmp_path):
    def make(rows, row_format, tokenizer, window=1000, **options):
        path = tmp_path / "pool.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        corpus = open_corpus([path], cache_dir=tmp_path / "cache")
        encoder = Encoder(DataOptions(), row_format, tokenizer, window)
        return [text for text in preview_rows(corpus, encoder, range(len(rows)), tokenizer, **options)]

    return make


def test_prompt_and_target_are_marked(preview, tiny_tokenizer):
    texts = preview([{"prompt": "The c", "completion": "at sat"}, {"prompt": "", "completion": "[red]猫"}],
                    "completion", tiny_tokenizer)  # fmt: skip
    first, second = map(str, texts)
    assert "pool.jsonl, row 0 (line 1): " in first and first.endswith("\n<s>The⟦ cat sat</s>⟧\n")
    n = len(tiny_tokenizer("The cat sat")["input_ids"]) + 1
    assert f"{n} tokens, {n - 2} of them target\n" in first
    assert second.endswith("\n<s>⟦[red]猫</s>⟧\n")  # markup in the data is text
    console = Console(force_terminal=True, color_system="standard", width=200)
    with console.capture() as capture:
        console.print(texts[0])
    assert "\x1b[2m<s>The\x1b[0m\x1b[1;32m⟦ cat sat</s>⟧\x1b[0m" in capture.get()


def test_cut_rows_say_so(preview, tiny_tokenizer):
    (text,) = preview([{"prompt": "x" * 50, "completion": "cat"}], "completion", tiny_tokenizer, window=9)
    whole = len(tiny_tokenizer("x" * 50 + "cat")["input_ids"]) + 1
    assert f": 9 tokens, 2 of them target, {whole - 9} cut to fit the window\n" in str(text)


def test_rows_of_tokens_need_no_tokenizer(preview):
    (text,) = preview([{"input_ids": [7, 8, 9, 10], "labels": [-100, 8, -100, 10]}], "tokens", None)
    assert str(text).endswith(": 4 tokens, 2 of them target\n 7 ⟦ 8 ⟧ 9 ⟦ 10 ⟧\n")


def test_a_bad_row_shows_its_error_among_the_others(preview, tiny_tokenizer):
    good, bad = preview([{"prompt": "a", "completion": "b"}, {"prompt": "a"}], "completion", tiny_tokenizer)
    assert "⟦" in str(good)
    assert "pool.jsonl, row 1 (line 2): field 'completion' is missing" in str(bad) and bad.style == "red"


def test_data_cannot_steer_the_terminal(preview, tiny_tokenizer):
    (text,) = preview([{"prompt": "\x1b[2J\x07\u202e", "completion": "\r\ta\n"}], "completion", tiny_tokenizer)
    assert str(text).endswith("<s>\\u001b[2J\\u0007\\u202e⟦\\u000d\ta\n</s>⟧\n")


def test_the_middle_of_a_long_stretch_is_left_out(preview, tiny_tokenizer):
    (text,) = preview(
        [{"prompt": "a" + "x" * 500 + "b", "completion": "cat"}], "completion", tiny_tokenizer, max_chars=10
    )
    assert "<s>ax … 495 characters … xxxxb⟦" in str(text) and str(text).endswith("⟦cat</s>⟧\n")
