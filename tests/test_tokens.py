"""Tokens: boundary and mask, BOS and EOS, cutting to the window, rows of tokens, errors as values."""

from __future__ import annotations

import hashlib
import json
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gdig.config.options import DataOptions
from gdig.data.corpus import open_corpus
from gdig.data.tokens import Encoder, Example, load_tokenizer
from gdig.errors import ConfigError, CorpusError, ModelError
from tests.support.profiles import examples

BOS, EOS = 0, 1
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture
def corpus_of(tmp_path):
    def make(rows):
        path = tmp_path / "pool.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return open_corpus([path], cache_dir=tmp_path / "cache")

    return make


@pytest.fixture
def encode(corpus_of):
    """Encode one row of prompt and completion."""

    def encode_row(tokenizer, prompt, completion, window=10_000, **options):
        encoder = Encoder(DataOptions(**options), "completion", tokenizer, window)
        (example,) = encoder.encode(corpus_of([{"prompt": prompt, "completion": completion}]), [0])
        return example

    return encode_row


def split(example: Example) -> tuple[list[int], list[int]]:
    """Tokens before the first label, and from it on; checks the convention on the way."""
    assert example.input_ids.dtype == example.labels.dtype == np.int32
    assert example.input_ids.shape == example.labels.shape
    is_target = example.labels != -100
    assert (example.labels[is_target] == example.input_ids[is_target]).all()
    first = int(np.flatnonzero(is_target)[0])
    assert is_target[first:].all()
    return example.input_ids[:first].tolist(), example.input_ids[first:].tolist()


TEXT = st.text(
    # No "<": a text that spells a special token is that token to any tokenizer, which these properties do not speak of.
    st.sampled_from(" \n\tab.,The cat matsé今天気😀\u0301\u200d\x00")
    | st.characters(exclude_categories=["Cs"], exclude_characters="<")
)


@settings(max_examples=examples(300), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompt=TEXT, completion=TEXT.filter(lambda text: text.strip()), add_bos=st.booleans(), add_eos=st.booleans())
def test_boundary_and_special_tokens(encode, tokenizer_factory, prompt, completion, add_bos, add_eos):
    """The tokens are those of the whole text at once; exactly those that lie in the prompt's bytes have no loss."""
    tokenizer = KINDS.setdefault((add_bos, add_eos), tokenizer_factory(add_bos=add_bos, add_eos=add_eos))
    example = encode(tokenizer, prompt, completion)
    before, target = split(example)
    assert before[:1] == [BOS] if add_bos else BOS not in before
    assert target[-1] == EOS and target.count(EOS) == 1 and example.cut == 0
    whole = tokenizer(prompt + completion, add_special_tokens=False)["input_ids"]
    assert before[add_bos:] + target[:-1] == whole
    # Oracle in bytes: a byte-level token is a known number of bytes.
    widths = [len(tokenizer.convert_ids_to_tokens(token)) for token in whole]
    assert sum(widths) == len((prompt + completion).encode())
    inside = sum(np.cumsum(widths) <= len(prompt.encode()))
    # A token that ends within the bytes of the prompt's last character is still prompt, one that crosses is target.
    assert len(before) - add_bos == inside


KINDS: dict = {}


def test_a_token_across_the_boundary_is_target(encode, tiny_tokenizer):
    example = encode(tiny_tokenizer, "The c", "at sat")
    before, target = split(example)
    assert tiny_tokenizer.decode(before) == "<s>The"
    assert tiny_tokenizer.decode(target) == " cat sat</s>"
    assert example.n_target == len(target)


@pytest.mark.parametrize("add_eos", [False, True])
def test_eos_is_not_doubled(encode, tokenizer_factory, add_eos):
    tokenizer = tokenizer_factory(add_eos=add_eos)
    for completion in ("The cat", "The cat</s>"):
        _, target = split(encode(tokenizer, "a", completion))
        assert target.count(EOS) == 1 and target[-1] == EOS


def test_a_tokenizer_without_eos_goes_without(encode, tokenizer_factory):
    tokenizer = tokenizer_factory()
    tokenizer.eos_token = None
    _, target = split(encode(tokenizer, "a ", "cat"))
    assert tokenizer.decode(target).strip() == "cat"
    assert not Encoder(DataOptions(), "completion", tokenizer, 10).has_eos


def test_no_prompt_and_no_bos(encode, tokenizer_factory):
    example = encode(tokenizer_factory(add_bos=False), "", "cat sat")
    before, target = split(example)
    assert before == [] and example.n_target == len(target) - 1  # the first token has nothing that could predict it


@settings(max_examples=examples(100), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(window=st.integers(2, 40), add_bos=st.booleans(), prompt=st.integers(0, 20), target=st.integers(1, 20))
def test_cutting_keeps_the_target_first(encode, tokenizer_factory, window, add_bos, prompt, target):
    """Against the example without a window: BOS, the prompt's right end, the target's left end; nothing else."""
    tokenizer = KINDS.setdefault((add_bos, False), tokenizer_factory(add_bos=add_bos, add_eos=False))
    texts = "x" * prompt, "7" * target
    before, after = split(encode(tokenizer, *texts))
    example = encode(tokenizer, *texts, window=window)
    bos = before[:add_bos]
    body = before[add_bos:]
    after_kept = after[: window - len(bos)]
    room = window - len(bos) - len(after_kept)
    expected = bos + body[len(body) - min(room, len(body)) :] + after_kept
    assert example.input_ids.tolist() == expected
    assert split(example)[1] == after_kept
    assert example.cut == len(before) + len(after) - len(expected)
    assert len(example) <= window


def test_max_length_lowers_the_window_and_never_raises_it(encode, tiny_tokenizer):
    assert len(encode(tiny_tokenizer, "x" * 50, "cat", window=20, max_length=9)) == 9
    assert len(encode(tiny_tokenizer, "x" * 50, "cat", window=20, max_length=30)) == 20


def test_a_window_with_no_room_for_a_target(encode, tiny_tokenizer):
    error = encode(tiny_tokenizer, "x", "cat", window=1)
    assert isinstance(error, CorpusError)
    assert "pool.jsonl, row 0 (line 1): nothing to learn: no token of the target follows another token within" in str(
        error
    )


def test_a_target_that_vanishes(encode, tokenizer_factory):
    from tokenizers import normalizers

    tokenizer = tokenizer_factory()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("#", "")
    assert "the tokenizer makes no token of the target" in str(encode(tokenizer, "a", "##"))


def test_bad_rows_are_values_between_the_good_ones(corpus_of, tiny_tokenizer):
    rows = [{"prompt": "a", "completion": str(i)} for i in range(1500)]
    for bad in (0, 700, 1499):
        rows[bad] = {"prompt": "a", "completion": ""}
    rows[3] = {"prompt": "a"}
    corpus = corpus_of(rows)
    encoder = Encoder(DataOptions(), "completion", tiny_tokenizer, 64)
    results = encoder.encode(corpus, range(1500))
    assert [i for i, result in enumerate(results) if isinstance(result, CorpusError)] == [0, 3, 700, 1499]
    assert "pool.jsonl, row 700 (line 701): field 'completion' is empty" in str(results[700])
    assert "row 3 (line 4): field 'completion' is missing; the row has: prompt" in str(results[3])
    for i, again in zip((1498, 0, 5, 5), encoder.encode(corpus, [1498, 0, 5, 5]), strict=True):
        if i:
            assert again.hash == results[i].hash and (again.input_ids == results[i].input_ids).all()
            assert tiny_tokenizer.decode(split(again)[1]).endswith(f"{i}</s>")
    assert encoder.encode(corpus, []) == []


@pytest.fixture
def chat(corpus_of, tokenizer_factory):
    def encode_chat(template, messages, window=10_000, eos="<|im_end|>"):
        tokenizer = tokenizer_factory()
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
        tokenizer.eos_token = eos
        tokenizer.chat_template = template
        encoder = Encoder(DataOptions(), "messages", tokenizer, window)
        (example,) = encoder.encode(corpus_of([{"messages": messages}]), [0])
        return tokenizer, example

    return encode_chat


CHAT = [
    {"role": "user", "content": "The cat?"},
    {"role": "assistant", "content": "sat on the mat."},
    {"role": "user", "content": "A dog?"},
    {"role": "assistant", "content": " ran "},
]


def target_runs(tokenizer, example):
    edges = np.flatnonzero(np.diff(np.r_[False, example.labels != -100, False]))
    return [tokenizer.decode(example.input_ids[a:b]) for a, b in edges.reshape(-1, 2)]


@pytest.mark.parametrize("eos", ["<|im_end|>", "</s>"])
def test_chat_loss_is_on_the_assistants_turns_and_the_template_ends_them(chat, eos):
    tokenizer, example = chat(CHATML, CHAT, eos=eos)
    assert target_runs(tokenizer, example) == ["sat on the mat.<|im_end|>", " ran <|im_end|>"]
    rendered = tokenizer.apply_chat_template(CHAT, tokenize=True, return_dict=True)["input_ids"]
    assert example.input_ids.tolist() == rendered[: len(example)]  # no second BOS, none missing
    assert tokenizer.decode(rendered[len(example) :]) == "\n"


def test_chat_with_marks_agrees_with_chat_without(chat):
    marked = CHATML.replace(
        "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}",
        "{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>"
        "{% endgeneration %}{{ '\n' }}{% else %}{{ m.content + '<|im_end|>\n' }}{% endif %}",
    )  # fmt: skip
    assert "generation" in marked.replace("add_generation_prompt", "")
    assert chat(marked, CHAT)[1].hash == chat(CHATML, CHAT)[1].hash


def test_chat_that_the_template_does_not_close_gets_eos(chat):
    tokenizer, example = chat(
        "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}", CHAT[:2], eos="</s>"
    )
    assert target_runs(tokenizer, example)[-1].endswith("mat.</s>")
    assert example.input_ids.tolist().count(EOS) == 1


def test_chat_is_cut_on_the_left_up_to_the_first_answer(chat):
    tokenizer, whole = chat(CHATML, CHAT)
    _, example = chat(CHATML, CHAT, window=len(whole) - 3)
    assert example.cut == 3 and target_runs(tokenizer, example) == target_runs(tokenizer, whole)


def test_needs_a_tokenizer_that_knows_offsets(tiny_tokenizer):
    class Slow:
        is_fast, name_or_path, bos_token_id, eos_token_id = False, "some/model", 0, 1

    with pytest.raises(ModelError, match="some/model: a slow tokenizer"):
        Encoder(DataOptions(), "completion", Slow(), 10)
    with pytest.raises(ConfigError, match="tokenizer: rows of the format completion need one"):
        Encoder(DataOptions(), "completion", None, 10)
    with pytest.raises(ModelError, match="no chat template"):
        Encoder(DataOptions(), "messages", tiny_tokenizer, 10)


def test_rows_of_tokens_are_used_as_they_are(corpus_of):
    row = {"input_ids": [5, 6, 7, 8], "labels": [-100, 6, 9, -100]}
    (example,) = Encoder(DataOptions(), "tokens", None, 10, vocab_size=10).encode(corpus_of([row]), range(1))
    assert example.input_ids.tolist() == row["input_ids"] and example.labels.tolist() == row["labels"]
    assert (example.cut, example.n_target) == (0, 2)
    (example,) = Encoder(DataOptions(), "tokens", None, 3).encode(corpus_of([row]), [0])
    assert example.input_ids.tolist() == [6, 7, 8] and example.cut == 1


@pytest.mark.parametrize(
    "row, message",
    [
        ({"input_ids": [1, 2]}, "field 'labels' is missing or null; the row has: input_ids"),
        ({"input_ids": None, "labels": [1]}, "field 'input_ids' is missing or null"),
        ({"input_ids": [], "labels": []}, "field 'input_ids' is empty"),
        ({"input_ids": [1, 2, 3], "labels": [1, 2]}, r"field 'labels': expected as many as input_ids \(3\), got 2"),
        ({"input_ids": [1, 2.0], "labels": [1, 2]}, "field 'input_ids': expected a list of whole numbers"),
        ({"input_ids": [1, True], "labels": [1, 2]}, "field 'input_ids': expected a list of whole numbers"),
        ({"input_ids": "12", "labels": [1, 2]}, "field 'input_ids': expected a list of whole numbers"),
        ({"input_ids": [1, 100], "labels": [1, 2]}, r"field 'input_ids': 100 at position 1 .*range \(0 to 99\)"),
        ({"input_ids": [-100, 1], "labels": [1, 2]}, "field 'input_ids': -100 at position 0 is out of range"),
        ({"input_ids": [1, 2**40], "labels": [1, 2]}, "field 'input_ids': 1099511627776 at position 1"),
        ({"input_ids": [1, 2], "labels": [-100, 100]}, "field 'labels': 100 at position 1 .*0 to 99 or -100"),
        ({"input_ids": [1, 2], "labels": [-101, 2]}, "field 'labels': -101 at position 0"),
        ({"input_ids": [1, 2, 3], "labels": [-100, -1, 3]}, "field 'labels': -1 at position 1"),
        ({"input_ids": [1, 2], "labels": [-100, -100]}, "nothing to learn: no token of the target"),
        ({"input_ids": [1, 2], "labels": [1, -100]}, "no token of the target follows another token"),
        ({"input_ids": [1, 2, 3, 4], "labels": [-100, 3, 4, -100]}, "field 'labels': shifted by one"),
        ({"input_ids": [1, 2], "labels": [1, 2], "attention_mask": [1, 0]}, "field 'attention_mask': the row is pad"),
    ],
)  # fmt: skip
def test_bad_rows_of_tokens(corpus_of, row, message):
    (error,) = Encoder(DataOptions(), "tokens", None, 10, vocab_size=100).encode(corpus_of([row]), [0])
    assert isinstance(error, CorpusError) and "pool.jsonl, row 0 (line 1): " in str(error)
    with pytest.raises(CorpusError, match=message):
        raise error


def test_the_hash_tells_tokens_and_labels_apart():
    ids, other = np.array([1, 2, 3], np.int32), np.array([1, 2, 4], np.int32)
    hashes = {Example(a, b).hash for a in (ids, other) for b in (ids, other)} | {Example(ids[:2], ids[:2]).hash}
    assert len(hashes) == 5 and all(0 <= value < 2**64 for value in hashes)
    assert Example(ids, ids).hash == Example(ids.copy(), ids.copy(), cut=3).hash
    # Fixed for good, since stores of earlier runs hold it: count, tokens and labels as little-endian integers.
    packed = struct.pack("<q3i3i", 3, 1, 2, 3, 1, 2, 3)
    assert Example(ids, ids).hash == int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little")


def test_load_tokenizer(tmp_path, tiny_tokenizer):
    model, adapter = tmp_path / "model", tmp_path / "adapter"
    tiny_tokenizer.save_pretrained(model)
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(model)}))
    for path, base in ((model, None), (adapter, model)):
        tokenizer = load_tokenizer(path, base=base)
        assert tokenizer.is_fast and tokenizer("The cat")["input_ids"] == tiny_tokenizer("The cat")["input_ids"]
    with pytest.raises(ModelError, match="missing: no such directory"):
        load_tokenizer(tmp_path / "missing")
    (model / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="model: the tokenizer cannot be loaded"):
        load_tokenizer(model)
