"""Spans of the assistant's turns in the chat templates of many model families, against a second way to find them.

The second way renders by transformers, in the plain: what changes in the text when the words of a turn change is the
inside of the turn. The header before it and the end mark behind it are written down in families.json.
"""

from __future__ import annotations

import json
from datetime import date, datetime
from importlib import metadata
from itertools import product
from pathlib import Path

import pytest
import transformers

from gdig.data.chat import ChatPrompter
from gdig.data.row_forms import Conversation, RowError
from tests.support.conversations import SHAPES, TOOLS

FOLDER = Path(__file__).parent / "data" / "chat_templates"
FAMILIES = json.loads((FOLDER / "families.json").read_text(encoding="utf-8"))
SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
TODAY = date(2026, 1, 31)


@pytest.fixture(autouse=True)
def _day(monkeypatch):
    class Fixed(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(TODAY.year, TODAY.month, TODAY.day)

    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Fixed)


class Tokenizer:
    """What a ChatPrompter needs of a tokenizer."""

    name_or_path, special_tokens_map, added_tokens_decoder = "family", SPECIAL_TOKENS, {}

    def __init__(self, source, specials=()):
        self.source, self.all_special_tokens = source, [*SPECIAL_TOKENS.values(), *specials]

    def get_chat_template(self, tools=None):
        return self.source


@pytest.fixture(scope="module")
def prompters():
    def make(name):
        source = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
        return ChatPrompter(Tokenizer(source, FAMILIES[name]["ends"]), TODAY)

    return {name: make(name) for name in FAMILIES}


def plainly(source, turns, tools, prompt=False):
    from transformers.utils import chat_template_utils

    if int(transformers.__version__.split(".")[0]) < 5:
        turns = [named_as_in_5(turn) for turn in turns]
    (text,), _ = chat_template_utils.render_jinja_template(
        conversations=[turns], tools=tools, chat_template=source, add_generation_prompt=prompt, **SPECIAL_TOKENS
    )
    return text


def named_as_in_5(turn):
    """A turn whose reasoning has the name that gpt-oss' template reads too; transformers 5 adds it, 4 does not."""
    reasoning = turn.get("reasoning_content")
    return turn if reasoning is None else {"thinking": reasoning, **turn}


def in_form(turns, as_json, blank, as_parts):
    """The turns in one of the forms that templates expect."""

    def form(turn):
        turn = dict(turn)
        if not turn.get("content") and blank != "given":
            turn["content"] = blank
        if as_json and "tool_calls" in turn:
            turn["tool_calls"] = [
                {**c, "function": {**c["function"], "arguments": json.dumps(c["function"]["arguments"])}}
                for c in turn["tool_calls"]
            ]
        if as_parts and isinstance(turn.get("content"), str):
            turn["content"] = [{"type": "text", "text": turn["content"]}]
        return turn

    return [form(turn) for turn in turns]


def in_other_words(turn):
    """A turn whose texts begin and end otherwise."""
    turn = dict(turn)
    for key in ("content", "reasoning_content"):
        if turn.get(key):
            turn[key] = f"\u00de{turn[key]}\u00de"
    if "tool_calls" in turn:
        (call,) = turn["tool_calls"]
        arguments = {key: f"\u00de{value}\u00de" for key, value in call["function"]["arguments"].items()}
        turn["tool_calls"] = [{**call, "function": {**call["function"], "arguments": arguments}}]
    return turn


def changed(text, other):
    """Where a text differs from the other, at its first and behind its last difference."""
    start = common(text, other)
    return start, len(text) - common(text[start:][::-1], other[start:][::-1])


def common(text, other):
    """How many characters both texts begin with."""
    pairs = zip(text, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(text), len(other)))


def test_each_template_has_its_origin():
    assert {path.stem for path in FOLDER.glob("*.jinja")} == {*FAMILIES, "gemma-4"}  # that one has its own test
    assert len(FAMILIES) >= 25
    trl = f"trl {metadata.version('trl')}, "
    for name, family in FAMILIES.items():
        assert family["licence"] in ("Apache-2.0", "MIT", "ours") and family["origin"], name
        if family["licence"] != "ours":  # the words are the package's or the model's; both have to allow a copy
            assert family["model_licence"].startswith(("Apache-2.0: ", "MIT: ")), name
        if family["origin"].startswith(trl):
            source = metadata.distribution("trl").locate_file(family["origin"].removeprefix(trl))
            assert (FOLDER / f"{name}.jinja").read_bytes() == Path(source).read_bytes(), name


def span_by_difference(family, text, other):
    first, last = changed(text, other)
    headers = [header for header in family["headers"] if header in text[:first]]
    # DeepSeek's templates write no header before an answer that no question precedes.
    start = max((text.rfind(header, 0, first) + len(header) for header in headers), default=first)
    prefill = next((p for p in family["prefills"] if text.startswith(p, start)), "")
    ends = [(text.find(mark, last), mark) for mark in family["ends"] if mark in text[last:]]
    at, mark = min(ends, default=(len(text.rstrip()), ""))
    return start + len(prefill), at + len(mark.rstrip())


def spans_by_difference(name, turns, tools, prompted):
    """The spans of all turns of the assistant, in the form in which transformers gives the text of `prompted`."""
    source = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
    for form in product((False, True), ("given", "", None), (False, True)):
        try:
            text = plainly(source, in_form(turns, *form), tools)
        except Exception:
            continue
        if text.startswith(prompted.text):
            break
    else:
        raise AssertionError("transformers gives another text")
    spans = []
    for i, turn in enumerate(turns):
        if turn["role"] == "assistant":
            others = [*turns[:i], in_other_words(turn), *turns[i + 1 :]]
            spans.append(span_by_difference(FAMILIES[name], text, plainly(source, in_form(others, *form), tools)))
    return spans


@pytest.mark.parametrize("name", FAMILIES)
def test_spans_are_those_of_the_difference_of_two_renderings(prompters, name):
    refuses = FAMILIES[name]["refuses"]
    for shape, (turns, with_tools) in SHAPES.items():
        tools = TOOLS if with_tools else None
        try:
            prompted = prompters[name](Conversation(turns, tools))
        except RowError as error:
            assert shape in refuses and refuses[shape] in str(error), (shape, str(error))
            continue
        assert shape not in refuses, shape
        expected = [prompted.text[a:b] for a, b in spans_by_difference(name, turns, tools, prompted)]
        assert [prompted.text[a:b] for a, b in prompted.targets] == expected, shape
