"""Turns on their way to a chat template: flags, nulls, calls, reasoning, parts; turns that templates write oddly."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest

from gdig.data.chat import ChatPrompter
from gdig.data.row_forms import Conversation, RowError
from tests.support.conversations import TOOLS, assistant, call, result, system, user
from tests.test_chat_templates import FOLDER, Tokenizer

HEAD = "<|im_start|>assistant\n"
# Writes every key of a turn and of a tool, so that nothing is hidden.
BARE = (
    "{{ tools | tojson }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m | items | list | tojson }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED = (
    "{% for m in messages %}{{ m.role }}: {% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>"
    "{% endgeneration %}{% else %}{{ m.content }}{% endif %}\n{% endfor %}"
)


def prompter(source):
    return ChatPrompter(Tokenizer(source, ["<|im_end|>", "<|im_start|>", "<|user|>"]), date(2026, 1, 31))


def family(name):
    return (Path(FOLDER) / f"{name}.jinja").read_text(encoding="utf-8")


def targets(prompted):
    return [prompted.text[a:b] for a, b in prompted.targets]


SEVERAL = [user("1"), assistant("one"), user("2"), assistant("two"), user("3"), assistant("three")]


@pytest.mark.parametrize("source", [family("qwen2.5"), MARKED])
@pytest.mark.parametrize(
    ("flags", "trained"),
    [
        ([{}, {"weight": 0}, {}], ["one", "three"]),
        ([{"train": False}, {"train": True}, {"loss": False}], ["two"]),
        ([{"weight": 1.0}, {"weight": 0.0, "train": True}, {"loss": 1}], ["one", "three"]),
    ],
)
def test_flags_of_turns_are_obeyed(source, flags, trained):
    flagged = [{**turn, **(flags[i // 2] if i % 2 else {"weight": 0, "train": "?"})} for i, turn in enumerate(SEVERAL)]
    prompted = prompter(source)(Conversation(flagged))
    assert targets(prompted) == [f"{text}<|im_end|>" for text in trained]
    assert prompted.text.endswith(f"{trained[-1]}<|im_end|>")
    whole = prompter(source)(Conversation(SEVERAL)).text
    assert whole.startswith(prompted.text), "a flag changes no text"


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ({"weight": 0.5}, "field 'messages': turn 1: weight: expected 0 or 1, false or true; got 0.5"),
        ({"train": "no"}, "field 'messages': turn 1: train: expected 0 or 1, false or true; got 'no'"),
        ({"loss": 0}, "field 'messages': no turn to train on: weight or train or loss is 0 in each of the assistant's"),
    ],
)
def test_flags_that_cannot_be_obeyed(flag, message):
    with pytest.raises(RowError, match=message):
        prompter(family("qwen2.5"))(Conversation([user("1"), assistant("one", **flag)]))


def test_an_empty_answer_without_loss_is_no_error():
    prompted = prompter(family("qwen2.5"))(
        Conversation([user("1"), assistant("", weight=0), user("2"), assistant("two")])
    )
    assert targets(prompted) == ["two<|im_end|>"]


def written(prompted, i):
    """What the template BARE has written of turn i."""
    return dict(json.loads(prompted.text.split("<|im_end|>\n")[i].partition("\n")[2].removesuffix("<|im_end|>")))


def test_nulls_that_parquet_adds_are_removed():
    """The same row from JSON lines and from Parquet, whose structs have the keys of all rows."""
    lean = [
        user("Oslo?"),
        assistant("", tool_calls=[call(1, city="Oslo", near=[{"a": 1}])]),
        result(1, "4"),
        assistant("4"),
    ]
    wide = json.loads(json.dumps(lean))
    wide[1]["tool_calls"][0]["function"]["arguments"] |= {"zip": None, "near": [{"a": 1, "b": None}]}
    wide[1]["tool_calls"][0]["index"] = None
    wide = [{**turn, **{key: None for key in ("name", "tool_call_id", "weight") if key not in turn}} for turn in wide]
    tools = json.loads(json.dumps(TOOLS))
    tools[0]["function"]["parameters"]["properties"]["unit"]["default"] = None
    bare = prompter(BARE)
    assert bare(Conversation(wide, tools)).text == bare(Conversation(lean, TOOLS)).text
    assert prompter(family("qwen3"))(Conversation(wide, tools)) == prompter(family("qwen3"))(Conversation(lean, TOOLS))


def test_calls_and_tools_take_the_form_that_templates_read():
    bare_call = {"name": "get_weather", "arguments": '{"city": "Oslo", "zip": null}'}
    turns = [user("Oslo?"), assistant(tool_calls=[bare_call], weight=1)]
    prompted = prompter(BARE)(Conversation(turns, [json.dumps(TOOLS[0]["function"])]))
    assert prompted.text.startswith(json.dumps(TOOLS, ensure_ascii=False))
    assert written(prompted, 1) == {
        "role": "assistant",  # a null in JSON text is the row's own
        "tool_calls": [{"type": "function", "function": {**bare_call, "arguments": {"city": "Oslo", "zip": None}}}],
    }


def test_arguments_as_json_where_a_template_needs_them():
    """Templates that join the arguments to text refuse an object, or write it as Python does."""
    turns = [user("Oslo?"), assistant("", tool_calls=[call(1, city="Oslo")])]
    for write in ("+ c.function.arguments", "~ c.function.arguments"):
        source = (
            "{% for m in messages %}" + HEAD + "{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.name "
            + write + " }}{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}" + HEAD + "{% endif %}"
        )  # fmt: skip
        assert targets(prompter(source)(Conversation(turns, TOOLS))) == ['get_weather{"city": "Oslo"}<|im_end|>']


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_has_three_names(name):
    turns = [user("2 + 2?"), assistant("Four.", **{name: "A sum."})]
    prompted = prompter(family("qwen3"))(Conversation(turns))
    assert targets(prompted) == ["<think>\nA sum.\n</think>\n\nFour.<|im_end|>"]
    assert targets(prompter(family("gpt-oss"))(Conversation(turns)))[0].startswith(
        "<|channel|>analysis<|message|>A sum."
    )


def test_parts_of_text_are_one_text():
    pieces = [{"type": "text", "text": "Un"}, {"type": "text", "text": "."}]
    prompted = prompter(family("qwen2.5"))(Conversation([user("One?"), {"role": "assistant", "content": pieces}]))
    assert targets(prompted) == ["Un.<|im_end|>"]
    with pytest.raises(RowError, match=r"turn 0: content: expected text, or .* got a part of type image_url"):
        prompter(BARE)(Conversation([{"role": "user", "content": [{"type": "image_url"}]}, assistant("x")]))


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([user("?"), assistant("", tool_calls={})], "turn 1: tool_calls: expected a list of calls, got dict"),
        ([user("?"), assistant("", tool_calls=["f"])], "turn 1: tool_calls: expected objects with a function, got str"),
        (
            [user("?"), assistant("", tool_calls=[{"function": {}}])],
            "turn 1: tool_calls: expected a function with a name",
        ),
    ],
)
def test_bad_calls(turns, message):
    with pytest.raises(RowError, match=f"field 'messages': {message}"):
        prompter(BARE)(Conversation(turns))


def test_a_row_nested_too_deep():
    deep: dict = {}
    for _ in range(900):
        deep = {"a": deep}
    with pytest.raises(RowError, match="the chat template: lists and objects in one another, expected at most 64 deep"):
        prompter(BARE)(Conversation([user("?"), assistant("", tool_calls=[call(1, **deep)])]))


def test_a_chat_template_within_limits():
    with pytest.raises(RowError, match="field 'messages': the chat template: the template makes too long a text"):
        prompter("{{ 'a' * 10**10 }}")(Conversation(SEVERAL))


def test_a_template_that_leaves_out_a_call_is_an_error():
    turns = [user("Oslo?"), assistant("I look.", tool_calls=[call(1, city="Oslo")]), result(1, "4"), assistant("4.")]
    with pytest.raises(RowError, match="turn 1: the chat template leaves out its calls"):
        prompter(family("phi-3"))(Conversation(turns, TOOLS))
    turns[1]["weight"] = 0  # not trained on
    assert targets(prompter(family("phi-3"))(Conversation(turns, TOOLS))) == ["4.<|end|>"]


def test_results_of_tools_inside_the_turn_that_called():
    """As Gemma 4 writes them: they have no loss, and what the turn says behind them has."""
    turns = [
        user("Oslo?"),
        assistant("Look.", tool_calls=[call(1, city="Oslo")]),
        result(1, "4"),
        assistant("It is 4."),
    ]
    gemma = ChatPrompter(Tokenizer(family("gemma-4"), ["<turn|>"]), date(2026, 1, 31))
    prompted = gemma(Conversation(turns, TOOLS))
    called = '<|tool_call>call:get_weather{"city": "Oslo"}<tool_call|>'
    assert targets(prompted) == [called, "Look.<turn|>", "It is 4.<turn|>"]
    assert '<|tool_response>response:"4"<tool_response|>' in prompted.text
    # The same template, with a loop over the calls' results that goes over no turns.
    scan = (
        family("gemma-4")
        .replace(
            'for result in messages if result.role == "tool" and result.tool_call_id == call.id',
            'for result in messages | selectattr("tool_call_id", "equalto", call.id) | map(attribute="content")',
        )
        .replace("result.content | tojson", "result | tojson")
    )
    other = ChatPrompter(Tokenizer(scan, ["<turn|>"]), date(2026, 1, 31))(Conversation(turns, TOOLS))
    assert other.text == prompted.text and targets(other) == targets(prompted)


def test_the_next_role_ends_a_turn_that_has_no_end_mark():
    prompted = prompter(family("glm-4"))(Conversation(SEVERAL))
    assert targets(prompted) == ["\none<|user|>", "\ntwo<|user|>", "\nthree"]


PAIRS = "{% for pair in messages | batch(2) %}U: {{ pair[0].content }} A: {{ pair[1].content }}</s>{% endfor %}"
PAIRS_AND_PROMPT = (
    "{% for pair in messages | batch(2) %}U: {{ pair[0].content }} A:"
    "{% if pair[1] or not add_generation_prompt %} {{ pair[1].content }}</s>{% endif %}{% endfor %}"
)


def test_a_template_of_whole_pairs():
    """The prompt tells where an answer begins. Without one, the question would be a part of the target."""
    with pytest.raises(RowError, match="turn 1 cannot be found in what the chat template gives"):
        prompter(PAIRS)(Conversation(SEVERAL[:4]))
    prompted = prompter(PAIRS_AND_PROMPT)(Conversation(SEVERAL))
    assert targets(prompted) == [" one</s>", " two</s>", " three</s>"]


def test_a_tokenizer_with_a_template_for_tools():
    class Two(Tokenizer):
        def get_chat_template(self, tools=None):
            return family("qwen2.5") if tools else family("zephyr")

    both = ChatPrompter(Two("", ["<|im_end|>"]), date(2026, 1, 31))
    assert targets(both(Conversation(SEVERAL[:2]))) == ["one</s>"]
    assert targets(both(Conversation(SEVERAL[:2], TOOLS))) == ["one<|im_end|>"]


def test_a_system_turn_that_the_template_refuses():
    with pytest.raises(RowError, match="the chat template refuses the conversation: no turn of the system"):
        prompter(family("gemma-2"))(Conversation([system("x"), *SEVERAL]))
