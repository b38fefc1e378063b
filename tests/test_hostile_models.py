"""Model folders that somebody made to do harm, or that are damaged: each is one clear error, soon."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import gdig
from gdig.data.corpus import open_corpus
from gdig.data.tokens import Encoder, decoded
from gdig.errors import ModelError
from gdig.model.directory import read_limits
from gdig.model.load import load_model
from tests.support.limits import within
from tests.support.project_fixtures import write_jsonl

WITHOUT_END = r"(a+)+b"
"""More ways to match a text of letters a than a machine tries in a day."""


@pytest.fixture
def model(project, tmp_path) -> Path:
    return Path(shutil.copytree(project.model, tmp_path / "model"))


def configured(model: Path, **changes: object) -> gdig.Config:
    file = model / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return gdig.Config.build({"model": str(model), "device": "cpu", "quiet": True})


@pytest.mark.parametrize(
    "changes",
    [
        {"pad_token_id": "x"},
        {"num_attention_heads": 0},
        {"num_attention_heads": 1000},
        {"hidden_act": "none"},
        {"rope_parameters": 5},
        {"rope_parameters": {"rope_type": [1]}},
        {"architectures": 7, "vocab_size": -1},
        {"model_type": {}},
        {"quantization_config": {"quant_method": "gptq"}},
        {"vocab_size": None},
        {"hidden_size": 10**400},
        {"attention_bias": []},
    ],
    ids=str,
)
def test_a_configuration_of_wrong_values_is_an_error_that_names_the_folder(model, changes):
    config = configured(model, **changes)
    with within(10.0):
        try:
            read_limits(config)
            load_model(config)
        except ModelError as error:
            assert str(error).startswith(f"{model}: cannot be ")


def test_more_layers_than_any_model_has_are_not_made(model):
    config = configured(model, num_hidden_layers=10**6)
    with within(2.0), pytest.raises(ModelError, match="num_hidden_layers: expected at most 4,096, got 1000000"):
        load_model(config)


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "model.safetensors.index.json", "chat_template.jinja"]
)
def test_a_text_that_would_fill_the_memory_is_not_read(model, name):
    with (model / name).open("ab") as file:
        file.truncate(1 << 40)  # it takes no room on the disk
    config = gdig.Config.build({"model": str(model), "device": "cpu"})
    with within(1.0), pytest.raises(ModelError, match=rf"{name}: expected at most 1,073,741,824 bytes"):
        read_limits(config)


def tokenizer(**parts: object) -> PreTrainedTokenizerFast:
    made = Tokenizer(models.BPE(vocab={"a": 0, "</s>": 1}, merges=[], unk_token="a"))
    for name, part in parts.items():
        setattr(made, name, part)
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", name_or_path="hostile")


@pytest.mark.parametrize(
    "parts",
    [
        {"pre_tokenizer": pre_tokenizers.Split(Regex(WITHOUT_END), "isolated")},
        {"normalizer": normalizers.Replace(Regex(WITHOUT_END), "b")},
    ],
    ids=["pre-tokenizer", "normalizer"],
)
def test_a_pattern_of_a_tokenizer_without_an_end_is_an_error(tmp_path, parts, capfd):
    """Its library gives up after ten million steps, by a panic of Rust."""
    corpus = open_corpus([write_jsonl(tmp_path / "a.jsonl", [{"text": "a" * 60}])], cache_dir=tmp_path / "cache")
    options = gdig.Config.build({"row_format": "text"})
    encoder = Encoder(options, "text", tokenizer(**parts), 128)
    with within(5.0), pytest.raises(ModelError, match=r"hostile: the tokenizer fails on a row: .*retry-limit"):
        encoder.encode(corpus, range(1))


def test_a_pattern_of_a_decoder_without_an_end_is_an_error(capfd):
    decoder = decoders.Sequence([decoders.Fuse(), decoders.Replace(Regex(WITHOUT_END), "b")])
    with within(5.0), pytest.raises(ModelError, match=r"hostile: the tokenizer fails on tokens: .*retry-limit"):
        decoded(tokenizer(decoder=decoder), [0] * 60)
