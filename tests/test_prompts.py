"""Prompts: conversations by the tokenizer's chat template, and what bad conversations get."""

from __future__ import annotations

import pytest

from gdig.data.chat import ChatPrompter
from gdig.data.row_forms import RowError
from gdig.data.turns import read_conversation
from gdig.errors import ModelError

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "Un."},
    {"role": "user", "content": "Two?"},
    {"role": "assistant", "content": "Deux."},
]


def targets(prompted):
    return [prompted.text[start:end] for start, end in prompted.targets]


@pytest.fixture
def chat(tokenizer_factory):
    def make(template):
        tokenizer = tokenizer_factory()
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
        tokenizer.chat_template = template
        prompter = ChatPrompter(tokenizer)
        return lambda row: prompter(read_conversation(row, "messages"))

    return make


def test_chat_turns_are_found_by_prefixes(chat):
    prompted = chat(CHATML)({"messages": CHAT})
    assert targets(prompted) == ["Un.<|im_end|>", "Deux.<|im_end|>"]
    assert prompted.text.endswith("Deux.<|im_end|>") and prompted.is_chat


def test_what_follows_the_last_answer_is_left_out(chat):
    longer = [*CHAT, {"role": "user", "content": "Three?"}]
    assert chat(CHATML)({"messages": longer}) == chat(CHATML)({"messages": CHAT})


def test_a_template_that_marks_the_turns_is_believed(chat):
    template = (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}A:{% generation %} {{ m.content }}"
        "<|im_end|>{% endgeneration %}\n{% else %}U: {{ m.content }}\n{% endif %}{% endfor %}"
    )
    prompted = chat(template)({"messages": CHAT})
    assert prompted.text.startswith("<s>U: Be brief.")
    assert targets(prompted) == [" Un.<|im_end|>", " Deux.<|im_end|>"]


def test_a_template_that_rewrites_earlier_turns(chat):
    """As templates of reasoning models do, which leave out what earlier turns thought: no prefix property."""
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}<think></think>"
        "{% endif %}{{ m.content | trim }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    prompted = chat(template)({"messages": CHAT})
    assert targets(prompted) == ["Un.<|im_end|>", "<think></think>Deux.<|im_end|>"]


def test_a_template_without_a_generation_prompt(chat):
    template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    prompted = chat(template)({"messages": CHAT})
    assert targets(prompted) == ["Un.", "Deux."] and prompted.text.endswith("[assistant] Deux.")
    # The assistant may speak first; nothing can be rendered before it.
    assert targets(chat(CHATML)({"messages": CHAT[2:3]})) == ["Un.<|im_end|>"]


def test_a_template_that_hides_a_turn(chat):
    with pytest.raises(RowError, match="field 'messages': turn 2: the chat template leaves out its content"):
        chat("{% for m in messages %}{{ m.content | upper }}\n{% endfor %}")({"messages": CHAT})


@pytest.mark.parametrize(
    "messages, message",
    [
        ([], "expected a list of turns, got an empty list"),
        (None, "expected a list of turns, got null"),
        ("Hello", "expected a list of turns, got str"),
        (["Hello"], "turn 0: expected an object with role and content"),
        ([{"content": "x"}], "turn 0: role: expected text, got None"),
        ([{"role": "user"}], "turn 0: content: expected text, got null"),
        ([{"role": "user", "content": [{"type": "text"}]}], "turn 0: content: expected text, or .* type text"),
        ([CHAT[1], {"role": "assistant", "content": ""}], "turn 1: content is empty"),
        (CHAT[:2], r"no turn of the assistant to train on \(roles: system, user\)"),
    ],
)
def test_bad_conversations(chat, messages, message):
    with pytest.raises(RowError, match=f"field 'messages': {message}"):
        chat(CHATML)({"messages": messages})


def test_bad_chat_templates(chat, tiny_tokenizer):
    with pytest.raises(RowError, match="field 'messages' is missing; the row has: text"):
        chat(CHATML)({"text": "x"})
    with pytest.raises(RowError, match="field 'messages': the chat template refuses the conversation: no systems"):
        chat("{{ raise_exception('no systems') }}")({"messages": CHAT})
    with pytest.raises(ModelError, match="the tokenizer has no chat template"):
        ChatPrompter(tiny_tokenizer)
