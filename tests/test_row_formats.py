"""Row formats: detection file by file, what a row of each format is, mapped columns, templates, and bad rows."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from gdig.config.config import Config
from gdig.config.options import DataOptions
from gdig.data.corpus import open_corpus
from gdig.data.prompts import plain_prompt
from gdig.data.row_formats import NEEDED_FIELDS, make_reader, open_readers, require_columns
from gdig.data.row_forms import Conversation, Pair, Pairs, RowError, WholeText
from gdig.errors import ConfigError, CorpusError

TRANSLATION = {"src_lang": "Chinese", "trg_lang": "English", "src_text": "你好。", "trg_text": "Hello."}
DE_EN = 'Render the following German text faithfully in English.\nGerman: "Ja."'
TURNS = [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "Un."}]
SHAREGPT = [
    {"from": "system", "value": "Use tools."},
    {"from": "human", "value": "Weather?"},
    {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Bonn"}}'},
    {"from": "observation", "value": "12 degrees"},
    {"from": "gpt", "value": "It is 12 degrees.", "weight": 0},
    {"from": "human", "value": "Thanks."},
    {"from": "function", "value": "{}"},
    {"from": "gpt", "value": "Welcome."},
]
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Bonn"}}}
SHAREGPT_TURNS = [
    {"role": "system", "content": "Use tools."},
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "12 degrees"},
    {"role": "assistant", "content": "It is 12 degrees.", "weight": 0},
    {"role": "user", "content": "Thanks."},
    {"role": "tool", "content": "{}"},
    {"role": "assistant", "content": "Welcome."},
]


def pairs(prompt, completion, plain=None, **more):
    return Pairs((Pair(prompt, completion, plain),), **more)


def german(source_language="German", target_language="English"):
    prompt = f'Render the following {source_language} text faithfully in {target_language}.\n{source_language}: "Ja."'
    return pairs(prompt, "Yes.", f"{prompt}\n{target_language}:\n")


# A row of each form, the format that is detected, and what the row is.
ROWS = {
    "own columns": (
        {"src_lang": "German", "trg_lang": "English", "src_text": "Ja.", "trg_text": "Yes."}, "translation", german()
    ),
    "nested": ({"translation": {"de": "Ja.", "en": "Yes."}}, "translation", german()),
    "flores": (
        {"id": 7, "sentence_deu_Latn": "Ja.", "sentence_eng_Latn": "Yes.", "URL": "x"}, "translation", german()
    ),
    "wmt": ({"lp": "de-en_GB", "source": "Ja.", "target": "Yes."}, "translation", german()),
    "named": ({"source_lang": "de", "target_lang": "Klingon", "source": "Ja.", "target": "Yes."}, "translation",
              german(target_language="Klingon")),
    "columns": ({"id": "7", "de": "Ja.", "en": "Yes.", "score": 0.5}, "translation", german()),
    "alpaca": ({"instruction": "Add.", "input": "1", "output": "2", "text": "all"}, "instruction",
               pairs("Add.\n1", "2", "Task:\nAdd.\n\nMaterial:\n1\n\nAnswer:\n")),
    "alpaca without input": ({"instruction": "Add.", "input": "", "output": "2", "history": []}, "instruction",
                             pairs("Add.", "2", "Task:\nAdd.\n\nAnswer:\n")),
    "alpaca as a table has it": (
        {"instruction": "Add.", "input": "", "output": "2", "history": '[["Hi.", "Hello."]]', "system": ""},
        "instruction",
        Pairs((Pair("Hi.", "Hello.", "Task:\nHi.\n\nAnswer:\n"), Pair("Add.", "2", "Task:\nAdd.\n\nAnswer:\n"))),
    ),
    "alpaca with a blank history": ({"instruction": "Add.", "output": "2", "history": ""}, "instruction",
                                    pairs("Add.", "2", "Task:\nAdd.\n\nAnswer:\n")),
    "alpaca with history": (
        {"instruction": "Add.", "output": "2", "system": "Be brief.", "history": [["Hi.", "Hello."]]}, "instruction",
        Pairs((Pair("Hi.", "Hello.", "Task:\nHi.\n\nAnswer:\n"), Pair("Add.", "2", "Task:\nAdd.\n\nAnswer:\n")),
              "Be brief."),
    ),
    "dolly": ({"instruction": "Add.", "context": "1", "response": "2", "category": "qa"}, "instruction",
              pairs("Add.\n1", "2", "Task:\nAdd.\n\nMaterial:\n1\n\nAnswer:\n")),
    "completion": ({"prompt": "a\n", "completion": " b"}, "completion", pairs("a\n", " b")),
    "completion with empty prompt": ({"prompt": "", "completion": "b"}, "completion", pairs("", "b")),
    "completion in turns": (
        {"prompt": [{"role": "system", "content": "s"}, *TURNS, TURNS[0]], "completion": [TURNS[1]], "tools": [{}]},
        "completion",
        Conversation([{"role": "system", "content": "s"}, TURNS[0], {**TURNS[1], "train": False}, *TURNS], [{}],
                     "completion"),
    ),
    "completion of text after turns": (
        {"prompt": TURNS[:1], "completion": "Un."}, "completion", Conversation(TURNS, None, "completion")
    ),
    "gsm8k": ({"question": "1 + 1?", "answer": "It is 2\n#### 2"}, "question",
              pairs("1 + 1?", "It is 2\n#### 2", "Question:\n1 + 1?\n\nAnswer:\n")),
    "orca": ({"system_prompt": "Think.", "question": "1?", "response": "2"}, "question",
             pairs("1?", "2", "Question:\n1?\n\nAnswer:\n", system="Think.")),
    "question about a text": ({"context": "T", "question": "Q?", "answer": "A"}, "question",
                              pairs("T\n\nQ?", "A", "Material:\nT\n\nQuestion:\nQ?\n\nAnswer:\n")),
    "messages": ({"prompt": "One?", "messages": TURNS}, "messages", Conversation(TURNS, None, "messages")),
    "messages under conversations": ({"conversations": TURNS}, "messages", Conversation(TURNS, None, "conversations")),
    "messages with nulls": (
        {"messages": [{**TURNS[0], "tool_calls": None}, TURNS[1]], "tools": None}, "messages",
        Conversation(TURNS, None, "messages"),
    ),
    "messages with tools in text": (
        {"messages": TURNS, "tools": '[{"name": "f"}]'}, "messages", Conversation(TURNS, [{"name": "f"}], "messages")
    ),
    "messages in text": ({"messages": json.dumps(TURNS)}, "messages", Conversation(TURNS, None, "messages")),
    "messages with an old call": (
        {"messages": [TURNS[0], {"role": "assistant", "content": None, "function_call": CALL["function"]}]}, "messages",
        Conversation([TURNS[0], {"role": "assistant", "tool_calls": [CALL]}], None, "messages"),
    ),
    "sharegpt": ({"id": "x", "conversations": SHAREGPT}, "sharegpt",
                 Conversation(SHAREGPT_TURNS, None, "conversations")),
    "sharegpt with system": (
        {"conversations": [{"from": "human", "value": "One?"}, {"from": "gpt", "value": "Un."}], "system": "s",
         "tools": ""},
        "sharegpt", Conversation([{"role": "system", "content": "s"}, *TURNS], None, "conversations"),
    ),
    "sharegpt with other names": (
        {"conversations": [{"from": "System", "value": "s"}, {"from": "USER", "content": "One?"},
                           {"from": "bing", "value": "Un."}]},
        "sharegpt", Conversation([{"role": "system", "content": "s"}, *TURNS], None, "conversations"),
    ),
    "messages of swift": (
        {"messages": [{"role": "Human", "value": "Weather?"},
                      {"role": "tool_call", "content": '[{"name": "weather", "arguments": {"city": "Bonn"}}]'},
                      {"role": "function", "name": "weather", "content": "12 degrees"}, TURNS[1]]},
        "messages",
        Conversation([{"role": "user", "content": "Weather?"},
                      {"role": "assistant", "content": "", "tool_calls": [CALL]},
                      {"role": "tool", "name": "weather", "content": "12 degrees"}, TURNS[1]], None, "messages"),
    ),
    "text": ({"text": "All of it.", "meta": 1}, "text", WholeText("All of it.")),
}  # fmt: skip


@pytest.fixture
def corpus_of(tmp_path):
    def make(*files):
        paths = []
        for i, rows in enumerate(files):
            paths.append(tmp_path / f"{i}.jsonl")
            paths[-1].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return open_corpus(paths, cache_dir=tmp_path / "cache")

    return make


@pytest.mark.parametrize("case", ROWS)
def test_a_row_of_each_form_is_read_as_what_it_is(corpus_of, case):
    row, row_format, form = ROWS[case]
    (reader,) = open_readers(DataOptions(), corpus_of([row]))
    assert (reader.format, reader(row)) == (row_format, form)
    # Nothing else is needed: a column store decodes these columns alone.
    assert reader({name: value for name, value in row.items() if name in reader.columns}) == form


def test_the_rows_of_the_readme_are_of_the_formats_that_it_names(corpus_of):
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    table = readme.partition("| format | an example row |")[2].partition("\n\n")[0]
    seen, row_format = set(), ""
    for line in table.splitlines()[2:]:
        name, rows = line.strip("| ").rsplit(" | ", 1) if not line.startswith("| |") else ("", line)
        row_format = name.strip("`") or row_format
        for row in re.findall(r"`(\{.*?\})`", rows):
            (reader,) = open_readers(DataOptions(), corpus_of([json.loads(row)]))
            assert reader.format == row_format, row
            assert reader.format == "tokens" or reader(json.loads(row))
            seen.add(row_format)
    assert seen == {*NEEDED_FIELDS}


def test_each_file_of_a_pool_has_its_own_format(corpus_of):
    corpus = corpus_of(*([row] for row, _, _ in ROWS.values()))
    readers = open_readers(DataOptions(), corpus)
    assert [reader.format for reader in readers] == [row_format for _, row_format, _ in ROWS.values()]
    assert [r(row) for r, (row, _, _) in zip(readers, ROWS.values(), strict=True)] == [f for _, _, f in ROWS.values()]
    assert [str(reader.detail) for reader in readers[:3]] == [
        "src_text to trg_text", "translation.de to translation.en", "sentence_deu_Latn to sentence_eng_Latn"
    ]  # fmt: skip
    assert {*NEEDED_FIELDS} == {*(reader.format for reader in readers), "tokens"}


def test_the_first_row_decides_and_a_null_looks_further(corpus_of):
    table = [{"prompt": None, "completion": None, "text": None}, {"prompt": "a", "completion": "b", "text": None}]
    filled = [{**table[0], "text": "c"}, table[1]]
    readers = open_readers(DataOptions(), corpus_of(table, filled, table[:1]))
    assert [reader.format for reader in readers] == ["completion", "text", "completion"]
    with pytest.raises(RowError, match=r"field 'text': expected text, got null\. The row looks like the format compl"):
        readers[1](table[1])


def test_unknown_fields_name_the_file_and_every_format(corpus_of):
    corpus = corpus_of([{"prompt": "a", "completion": "b"}], [{"headline": "a", "body": "b"}])
    with pytest.raises(CorpusError, match=r"1\.jsonl, row 0 \(line 1\): the fields \(headline, body\) .*prompt_column"):
        open_readers(DataOptions(), corpus)


def test_the_format_may_be_named(corpus_of):
    row = {"prompt": "a", "completion": "b", "text": "t", "instruction": "i", "output": "o"}
    corpus = corpus_of([row])
    for row_format in ("completion", "text", "instruction"):
        (reader,) = open_readers(DataOptions(row_format=row_format), corpus)
        assert reader.format == row_format and reader(row)
    (reader,) = open_readers(DataOptions(row_format="question"), corpus)
    with pytest.raises(RowError, match="field 'question' is missing; the row has: prompt, completion, text"):
        reader(row)
    templates = {"prompt_template": "{{ prompt }}", "target_template": "{{ text }}"}
    for row_format in ("auto", "completion"):
        (reader,) = open_readers(DataOptions(row_format=row_format, **templates), corpus)
        assert reader(row) == pairs("a", "t", own_template=True) and reader.columns == {"prompt", "text"}
    with pytest.raises(ConfigError, match="prompt_template: rows of the format tokens"):
        open_readers(DataOptions(row_format="tokens", **templates), corpus)


def test_columns_may_be_named(corpus_of):
    files = [
        [{"q": "Why?", "a": {"best": "So."}, "sys": "Be brief."}],
        [{"talk": SHAREGPT}],
        [{"question": "1?", "answer": "2"}],
        [{"a.best": "dotted"}],
    ]
    corpus = corpus_of(*files)
    two = DataOptions(prompt_column="q", completion_column="a.best", system_column="sys")
    with pytest.raises(CorpusError, match=r"1\.jsonl, row 0 .*talk"):
        open_readers(two, corpus)
    corpus = corpus_of(files[0], files[2])
    first, second = open_readers(two, corpus)
    assert first(files[0][0]) == pairs("Why?", "So.", system="Be brief.")
    assert (first.format, first.detail, second.format) == ("completion", "q to a.best", "question")
    assert first.columns >= {"q", "a", "sys"}
    (alone,) = open_readers(DataOptions(completion_column="a.best"), corpus_of(files[0]))
    assert alone(files[0][0]) == WholeText("So.") and alone.format == "text"
    (dotted,) = open_readers(DataOptions(completion_column="a.best"), corpus_of(files[3]))
    assert dotted(files[3][0]) == WholeText("dotted")
    (talk,) = open_readers(DataOptions(conversation_column="talk"), corpus_of(files[1]))
    assert talk(files[1][0]) == Conversation(SHAREGPT_TURNS, None, "talk") and talk.format == "sharegpt"
    (system,) = open_readers(DataOptions(system_column="s"), corpus_of([{"messages": TURNS, "s": "S"}]))
    assert system({"messages": TURNS, "s": "S"}).turns[0] == {"role": "system", "content": "S"}
    row = {"translation": {"de": "Ja.", "en": "Yes."}}
    back = DataOptions(prompt_column="translation.en", completion_column="translation.de")
    (reader,) = open_readers(back, corpus_of([row]))
    assert reader(row) == pairs("Yes.", "Ja.")


def test_a_named_column_has_to_be_in_some_file(corpus_of):
    pool = corpus_of([{"prompt": "a", "completion": "b"}])
    options = DataOptions(prompt_column="q", completion_column="a")
    with pytest.raises(ConfigError, match="prompt_column='q': expected a column of some file, found none"):
        require_columns(options, [(pool, [make_reader("completion")])])
    seeds = corpus_of([{"q": "a", "a": "b"}])
    require_columns(options, [(pool, [make_reader("completion")]), (seeds, open_readers(options, seeds))])
    for options, message in [
        ({"prompt_column": "a"}, "completion_column=None: expected the column that is trained on"),
        ({"completion_column": "a", "conversation_column": "b"}, "conversation_column='b': expected either"),
        ({"system_column": "a", "prompt_template": "x", "target_template": "y"}, "system_column='a': expected no"),
    ]:
        with pytest.raises(ConfigError, match=message):
            Config(**options)


def test_the_plain_text_of_a_row():
    prompted = plain_prompt(ROWS["alpaca with history"][2])
    assert prompted.text == "Be brief.\n\nTask:\nHi.\n\nAnswer:\nHello.\n\nTask:\nAdd.\n\nAnswer:\n2"
    assert [prompted.text[a:b] for a, b in prompted.targets] == ["Hello.", "2"] and not prompted.is_chat
    prompted = plain_prompt(german())
    assert prompted.text == DE_EN + "\nEnglish:\nYes." and prompted.text[slice(*prompted.targets[0])] == "Yes."
    # Neither HTML nor Jinja signs in the data mean anything, and no blank is lost.
    prompted = plain_prompt(
        make_reader("completion")({"prompt": "a <b> {{ 7 * 7 }}\n\n", "completion": " {% if %} & \n"})
    )
    assert prompted.text == "a <b> {{ 7 * 7 }}\n\n {% if %} & \n"
    assert plain_prompt(WholeText("ab")).targets == ((0, 2),)
    with pytest.raises(RowError, match="field 'messages': a conversation needs the tokenizer's chat template"):
        plain_prompt(Conversation(TURNS))
