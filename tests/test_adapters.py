"""Adapters of PEFT: LoRA, DoRA, matrices on the head, where the base model is, and vocabularies that were resized."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from gdig.config.config import Config
from gdig.errors import ModelError
from gdig.model.causal_model import Model
from gdig.model.directory import read_limits
from gdig.model.load import load_model
from gdig.progress import Progress
from gdig.run.session import Workspace
from tests.support.identity_scores import compare_with_autograd
from tests.support.tiny_models import VOCAB, llama

peft = pytest.importorskip("peft")

ATTENTION_AND_MLP = ["q_proj", "v_proj", "down_proj"]


def saved(path, base=None, save=True, **options):
    """An adapter in path/adapter around a model in path/base, with matrices that are not zero."""
    base = llama() if base is None else base
    base.save_pretrained(path / "base")
    lora = peft.LoraConfig(**{"r": 4, "target_modules": ATTENTION_AND_MLP, "init_lora_weights": False, **options})
    torch.manual_seed(1)
    adapter = peft.get_peft_model(base, lora)
    adapter.save_pretrained(path / "adapter")
    rename_base(path / "adapter", str(path / "base"))
    return path / "adapter"


def rename_base(adapter, name: str) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": name}))


def loaded(path, **options) -> Model:
    return load_model(Config.build({"model": path, "device": "cpu", "quiet": True, **options}))


def names(model: Model) -> set[str]:
    return {layer.name.removeprefix("base_model.model.model.layers.") for layer in model.layers}


def both(*modules: str, blocks=(0, 1)) -> set[str]:
    return {f"{i}.{module}.lora_{side}.default" for i in blocks for module in modules for side in "AB"}


@pytest.mark.parametrize("dora", [False, True], ids=["LoRA", "DoRA"])
def test_scores_of_an_adapter_are_those_of_plain_autograd(tmp_path, dora):
    model = loaded(saved(tmp_path, use_dora=dora))
    assert names(model) == both("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")
    compare_with_autograd(model)
    assert (model.coverage.share == 1) is not dora, "DoRA's magnitudes are left out"


def test_layers_chooses_among_an_adapters_matrices(tmp_path):
    path = saved(tmp_path)
    assert names(loaded(path, layers="mlp")) == both("mlp.down_proj")
    assert names(loaded(path, layers="upper:0.5")) == both(
        "self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj", blocks=(1,)
    )


@pytest.mark.parametrize(
    "options",
    [{"target_modules": [*ATTENTION_AND_MLP, "lm_head"]}, {"modules_to_save": ["lm_head", "embed_tokens"]}],
    ids=["LoRA", "whole"],
)
def test_an_adapter_of_the_head(tmp_path, options):
    """The head runs on labelled positions only: its matrices are no layers, and the loss goes through them."""
    model = loaded(saved(tmp_path, **options))
    assert names(model) == both("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")
    compare_with_autograd(model)


def test_an_adapter_of_the_head_alone_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"expected an adapter with LoRA matrices in the blocks, found none; merge"):
        loaded(saved(tmp_path, target_modules=["lm_head"]))


def test_an_adapter_without_lora_matrices_is_refused(tmp_path):
    base = llama()
    base.save_pretrained(tmp_path / "base")
    options = peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])
    peft.get_peft_model(base, options).save_pretrained(tmp_path / "adapter")
    rename_base(tmp_path / "adapter", str(tmp_path / "base"))
    with pytest.raises(ModelError, match=r"expected an adapter with LoRA matrices in the blocks, found none; merge"):
        loaded(tmp_path / "adapter")


def test_the_base_model_by_option(tmp_path, offline):
    path = saved(tmp_path)
    expected = loaded(path).module.state_dict()
    rename_base(path, "someone/elsewhere")
    with pytest.raises(ModelError, match=r"someone/elsewhere: .* HF_HUB_OFFLINE.* name its directory with base_model"):
        loaded(path)
    given = loaded(path, base_model=tmp_path / "base").module.state_dict()
    assert given.keys() == expected.keys() and all(torch.equal(given[name], expected[name]) for name in expected)
    with pytest.raises(ModelError, match=r"base_model: expected a directory in Hugging Face format, or the name"):
        loaded(path, base_model=tmp_path / "no")
    with pytest.raises(ModelError, match=r"base_model: .* is no adapter"):
        loaded(tmp_path / "base", base_model=tmp_path / "base")
    rename_base(path, "9" * 5_000)
    # Path.is_dir says no to such a name from Python 3.14 on, where it raised before.
    said = "expected a directory in Hugging Face format" if sys.version_info >= (3, 14) else "File name too long: 9+$"
    with pytest.raises(ModelError, match=rf"adapter_config.json: base_model_name_or_path: {said}"):
        loaded(path)


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """A cache of the hub of one's own. Returns a function that puts a directory there as a model."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    def put(folder, name):
        cache, commit = tmp_path / "hub" / f"models--{name.replace('/', '--')}", "0123456789" * 4
        (cache / "refs").mkdir(parents=True)
        (cache / "snapshots").mkdir()
        (cache / "refs" / "main").write_text(commit)
        folder.rename(cache / "snapshots" / commit)

    return put


def test_the_base_model_by_its_name_on_the_hub(tmp_path, offline):
    """A model in the local cache, as hf download leaves it."""
    path = saved(tmp_path)
    offline(tmp_path / "base", "someone/tiny")
    rename_base(path, "someone/tiny")
    assert len(loaded(path).layers) == 12
    assert len(loaded(path, base_model="someone/tiny").layers) == 12


def test_model_tokenizer_and_adapter_by_their_names_on_the_hub(tmp_path, offline, tiny_tokenizer):
    path = saved(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path / "base")
    offline(tmp_path / "base", "someone/tiny")
    rename_base(path, "someone/tiny")
    offline(path, "someone/adapter")
    assert "lora_A" in loaded("someone/adapter").layers[0].name and "lora" not in loaded("someone/tiny").layers[0].name
    for options in ({"model": "someone/adapter"}, {"model": "someone/tiny", "tokenizer": "someone/tiny"}):
        work = Workspace(Config.build({**options, "candidates": ("-",), "seeds": ("-",)}), Progress(quiet=True))
        assert len(work.tokenizer) == len(tiny_tokenizer) and work.limits.vocab_size == VOCAB
    for name, message in [
        ("someone/other", r"model: someone/other: expected a directory, or a model .* HF_HUB_OFFLINE"),
        ("no/such/folder", r"model: expected a directory .* or the name of a model on the hub \(org/name\)"),
    ]:
        with pytest.raises(ModelError, match=message):
            loaded(name)


@pytest.mark.parametrize("tied", [False, True], ids=["", "tied"])
def test_embeddings_that_a_pad_token_has_resized(tmp_path, tied):
    """The base model on the disk has the old vocabulary; the adapter's file brings the new embeddings and head."""
    base = llama(tied=tied)
    base.save_pretrained(tmp_path / "original")
    torch.manual_seed(2)
    base.resize_token_embeddings(VOCAB + 1, mean_resizing=False)
    lora = peft.LoraConfig(r=4, target_modules=ATTENTION_AND_MLP, init_lora_weights=False)
    adapter = peft.get_peft_model(base, lora)
    adapter.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    rename_base(tmp_path / "adapter", str(tmp_path / "original"))
    model = loaded(tmp_path / "adapter")
    assert model.vocab_size == VOCAB + 1
    assert read_limits(Config.build({"model": tmp_path / "adapter"})).vocab_size == VOCAB + 1
    got, want = model.module.state_dict(), adapter.get_base_model().state_dict()
    assert all(torch.equal(got[name], want[name]) for name in want)
    compare_with_autograd(model)


def test_resized_embeddings_that_the_adapter_does_not_bring(tmp_path):
    base = llama()
    base.save_pretrained(tmp_path / "original")
    base.resize_token_embeddings(VOCAB + 1, mean_resizing=False)
    path = saved(tmp_path, base, modules_to_save=["embed_tokens"])
    rename_base(path, str(tmp_path / "original"))
    file = path / "adapter_model.safetensors"
    save_file({name: x for name, x in load_file(file).items() if "lm_head" not in name}, file)
    with pytest.raises(
        ModelError, match=rf"expected the resized head for {VOCAB + 1} words in the adapter, found none"
    ):
        loaded(path)
