"""Prompts: formats and their detection, templates, conversations, and what bad rows get."""

from __future__ import annotations

import pytest

from gdig.config.options import DataOptions
from gdig.data.chat import ChatPrompter
from gdig.data.corpus import open_corpus
from gdig.data.prompts import NEEDED_FIELDS, RowError, TemplatePrompter, detect_format, resolve_format
from gdig.errors import ConfigError, CorpusError, ModelError

TRANSLATION = {"src_lang": "Chinese", "trg_lang": "English", "src_text": "你好。", "trg_text": "Hello."}
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
        return ChatPrompter(tokenizer)

    return make


def test_formats_are_detected_by_their_fields():
    for name, fields in NEEDED_FIELDS.items():
        assert detect_format((*fields, "id")) == name
    with pytest.raises(
        CorpusError, match=r"pool.jsonl, row 0: the fields \(text, id\) .*instruction: instruction, outp"
    ):
        detect_format(["text", "id"], "pool.jsonl, row 0")


def test_the_format_is_the_templates_or_the_named_one_or_the_detected_one(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n')
    corpus = open_corpus([path], cache_dir=tmp_path / "cache")
    assert resolve_format(DataOptions(), corpus) == "completion"
    assert resolve_format(DataOptions(row_format="instruction"), corpus) == "instruction"
    templates = {"prompt_template": "{{ prompt }}", "target_template": "{{ completion }}"}
    assert resolve_format(DataOptions(**templates), corpus) == "template"
    assert resolve_format(DataOptions(row_format="completion", **templates), corpus) == "template"
    with pytest.raises(ConfigError, match="prompt_template: rows of the format tokens"):
        resolve_format(DataOptions(row_format="tokens", **templates), corpus)
    path.write_text('{"text": "a"}\n')
    with pytest.raises(CorpusError, match=r"a\.jsonl, row 0 \(line 1\): the fields \(text\)"):
        resolve_format(DataOptions(), open_corpus([path], cache_dir=tmp_path / "cache"))


def test_translation():
    prompted = TemplatePrompter("translation")(TRANSLATION)
    assert targets(prompted) == ["Hello."]
    assert prompted.text.endswith("Hello.") and not prompted.is_chat
    assert '"你好。"' in prompted.text and "Chinese" in prompted.text and "English" in prompted.text


def test_instruction_with_and_without_input():
    prompter = TemplatePrompter("instruction")
    row = {"instruction": "Add.", "input": "1 + 1", "output": "2"}
    with_input, without = prompter(row), [prompter({**row, "input": empty}) for empty in ("", None)]
    assert "1 + 1" in with_input.text and targets(with_input) == ["2"]
    del row["input"]
    assert [*without, prompter(row)] == [without[0]] * 3
    assert "Material" not in without[0].text and targets(without[0]) == ["2"]


def test_completion_is_taken_as_it_is():
    prompter = TemplatePrompter("completion")
    # Neither HTML nor Jinja signs in the data mean anything, and no blank is lost.
    prompted = prompter({"prompt": "a <b> {{ 7 * 7 }}\n\n", "completion": " {% if %} & c \n"})
    assert prompted.text == "a <b> {{ 7 * 7 }}\n\n {% if %} & c \n"
    assert targets(prompted) == [" {% if %} & c \n"]
    assert prompter({"prompt": "", "completion": "x"}).targets == ((0, 1),)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"trg_text": ""}, "field 'trg_text' is empty"),
        ({"trg_text": " \n\u3000"}, "field 'trg_text' is empty"),
        ({"src_text": ""}, "field 'src_text' is empty"),
        ({"trg_text": None}, "field 'trg_text': expected text, got null"),
        ({"trg_text": 7}, "field 'trg_text': expected text, got int"),
        ({"src_text": ["a"]}, "field 'src_text': expected text, got list"),
        ({"trg_text": "a\ud83d"}, r"field 'trg_text': U\+D83D at character 1 is half of a surrogate pair"),
    ],
)
def test_bad_fields(change, message):
    with pytest.raises(RowError, match=message):
        TemplatePrompter("translation")({**TRANSLATION, **change})


@pytest.mark.parametrize("field", TRANSLATION)
def test_missing_fields(field):
    row = {key: value for key, value in TRANSLATION.items() if key != field}
    with pytest.raises(RowError, match=f"field '{field}' is missing; the row has: {', '.join(row)}"):
        TemplatePrompter("translation")(row)


def test_templates_take_the_place_of_the_built_in_ones():
    row = {"q": "Why?", "a": {"best": "Because."}, "tags": ["x", "y"]}
    prompter = TemplatePrompter("template", "{{ tags | join(',') }}: {{ q }}\n", "{{ a.best }}\n")
    prompted = prompter(row)
    assert prompted.text == "x,y: Why?\nBecause.\n" and targets(prompted) == ["Because.\n"]


@pytest.mark.parametrize(
    "prompt, target, message",
    [
        ("{{ q }}", "{{ answer }}", "target_template: 'answer' is undefined; the row has: q, a"),
        ("{{ a.c }}", "{{ q }}", "prompt_template: 'dict object' has no attribute 'c'"),
        ("{{ q }}", "{{ a.b }}", "target_template is empty"),
        ("{{ q }}", "{{ q / 2 }}", "target_template: TypeError"),
        ("{{ q.__class__.__mro__ }}", "{{ q }}", "prompt_template: access to attribute '__class__' of 'str'"),
        ("{% for i in range(10**9) %}{% endfor %}", "{{ q }}", "prompt_template: OverflowError"),
    ],
)  # fmt: skip
def test_templates_that_fail_on_a_row(prompt, target, message):
    with pytest.raises(RowError, match=message):
        TemplatePrompter("template", prompt, target)({"q": "Why?", "a": {"b": ""}})


def test_a_syntax_error_in_a_template_names_the_line():
    with pytest.raises(ConfigError, match="target_template, line 2: unexpected"):
        TemplatePrompter("template", "{{ q }}", "a\n{{ q }")


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
    with pytest.raises(RowError, match=r"field 'messages': turn 2 cannot be found .*generation"):
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
        ([{"role": "user", "content": [{"type": "text"}]}], "turn 0: content: expected text, got list"),
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
