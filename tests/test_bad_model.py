"""A model that cannot be used, and memory that does not suffice: a clear error, or smaller batches."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainingArguments

import gdig
from gdig.errors import ModelError
from gdig.model.load import load_trainable
from tests.support.project_fixtures import (
    N_ROWS,
    N_SEEDS,
    TINY,
    stages,
    stored,
)


def test_layers_that_are_not_there(failing):
    message = failing(filter_modules="fc9")
    assert "filter_modules: 'fc9' matches no linear layer; there are: " in message
    assert "model.layers.N.mlp.down_proj" in message and "model.layers.N.self_attn.q_proj" in message


def test_a_model_without_linear_layers():
    from gdig.model.choice import choose_layers
    from gdig.model.load_trial import Trial

    with pytest.raises(ModelError, match=r"Embedding: has no linear layers \(nn\.Linear or Conv1D\)"):
        choose_layers(torch.nn.Embedding(3, 4), Trial(), head=None)
    head = torch.nn.Linear(4, 3)
    with pytest.raises(ModelError, match="has no linear layers"):
        choose_layers(torch.nn.Sequential(torch.nn.Embedding(3, 4), head), Trial(), head=head)


def test_directories_that_hold_no_model(project, tmp_path, failing, tiny_tokenizer):
    assert f"or the name of a model on the hub (org/name); found none at {tmp_path}/no" in failing(
        model=tmp_path / "no"
    )
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path}/empty: " in failing(model=tmp_path / "empty")
    shutil.copytree(project.model, tmp_path / "damaged")
    (tmp_path / "damaged" / "config.json").write_text("{")
    assert f"{tmp_path}/damaged" in failing(model=tmp_path / "damaged", run_path=tmp_path / "b")
    shutil.copytree(project.model, tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert f"{tmp_path}/cut: cannot be loaded as a causal language model" in failing(
        model=tmp_path / "cut", run_path=tmp_path / "c"
    )
    shutil.copytree(project.model, tmp_path / "wordless")
    (tmp_path / "wordless" / "tokenizer.json").unlink()
    (tmp_path / "wordless" / "tokenizer_config.json").unlink()
    assert f"{tmp_path}/wordless: the tokenizer cannot be loaded" in failing(
        model=tmp_path / "wordless", run_path=tmp_path / "d"
    )


def test_a_model_that_lacks_weights_is_refused(project, tmp_path, failing):
    """transformers would make up random ones, and the selection would be noise."""
    shutil.copytree(project.model, tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    del weights["model.layers.1.mlp.down_proj.weight"]
    save_file(weights, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    message = failing(model=tmp_path / "model")
    assert f"{tmp_path}/model" in message and "model.layers.1.mlp.down_proj.weight" in message


def test_an_adapter_whose_base_is_not_there(project, tmp_path, failing):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "some/where"}))
    assert "base_model_name_or_path: some/where: expected a directory, or a model of the Hugging" in failing(
        model=adapter
    )
    (adapter / "adapter_config.json").write_text("{")
    assert f"{adapter}/adapter_config.json: " in failing(model=adapter)


def test_pickled_weights_are_refused(project, tmp_path, failing):
    shutil.copytree(project.model, tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    torch.save(weights, tmp_path / "model" / "pytorch_model.bin")
    (tmp_path / "model" / "model.safetensors").unlink()
    message = failing(model=tmp_path / "model")
    assert (
        f"{tmp_path}/model: expected weights in *.safetensors, found none (pickled weights are not loaded)" in message
    )


def test_a_model_that_was_read_from_gguf_can_be_trained_and_a_quantized_one_says_why_not(
    project, tmp_path, monkeypatch
):
    """transformers 5 saves such a model with plain weights, and with a note that makes Trainer refuse it."""
    model = tmp_path / "model"
    shutil.copytree(project.model, model)
    file = model / "config.json"
    note = {"quant_method": "gguf", "gguf_file": "a.Q4_1.gguf", "dequantize": False}
    file.write_text(json.dumps({**json.loads(file.read_text()), "quantization_config": note}))
    config = gdig.Config.build({"model": str(model), "device": "cpu", "quiet": True})
    module = load_trainable(config)
    Trainer(model=module, args=TrainingArguments(output_dir=str(tmp_path / "out"), use_cpu=True, report_to=[]))
    before = load_file(project.model / "model.safetensors")
    assert all(torch.equal(module.state_dict()[name], x) for name, x in before.items())
    module.is_quantized = True
    monkeypatch.setattr("gdig.model.load._load", lambda *given, **options: (module, False))
    with pytest.raises(ModelError, match=re.escape(f"{model}: expected plain weights")):
        load_trainable(config)


def test_code_that_comes_with_a_model_is_not_run(project, tmp_path, failing):
    shutil.copytree(project.model, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config.update(model_type="own", auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"})
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    (tmp_path / "model" / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    message = failing(model=tmp_path / "model")
    assert f"{tmp_path}/model" in message and "trust_remote_code" in message
    assert not (tmp_path / "ran").exists()


# Memory.


def run_out(monkeypatch, lines: int, first: int = 0) -> list[int]:
    """Let a batch of more than `lines` examples not fit, from batch `first` on. Returns the sizes tried."""
    from gdig.model.capture import GradientPass

    run, tried = GradientPass.run, []

    def limited(self, batch, sink, states_sink=None, **sinks):
        tried.append(len(batch.rows))
        if len(batch.rows) > lines and len(tried) > first:
            # In the middle of the backward pass: some layers have handed over their part.
            calls = []

            def half(*args):
                calls.append(args)
                if len(calls) > len(self.model.layers) // 2:
                    raise torch.OutOfMemoryError("CUDA out of memory")
                sink(*args)

            return run(self, batch, half, states_sink, **sinks)
        return run(self, batch, sink, states_sink, **sinks)

    monkeypatch.setattr(GradientPass, "run", limited)
    return tried


def test_out_of_memory_halves_the_batch_and_says_so_once(project, finished, tmp_path, monkeypatch, capsys):
    gdig.fit(**project.options(tmp_path / "run"))
    whole = gdig.sweep(**project.options(tmp_path / "whole", token_batch_size=4096))
    capsys.readouterr()
    tried = run_out(monkeypatch, 4)
    gdig.sweep(**project.options(tmp_path / "run", token_batch_size=4096, quiet=False))
    said = capsys.readouterr().err
    sizes = [
        int(line.split()[-1]) for line in said.splitlines() if "out of memory: token_batch_size lowered to" in line
    ]
    assert sizes == sorted(set(sizes), reverse=True) and 1 <= len(sizes) <= 3
    assert max(tried) > 4 and sum(n > 4 for n in tried) <= 4, "what did not fit must not be tried for every batch"
    halved, other = stored(tmp_path / "run"), stored(whole)
    np.testing.assert_array_equal(halved["valid"], other["valid"])
    for name in ("influence", "loss", "sketch"):  # tolerance as between numbers of threads
        a, b = (x[name].astype(np.float64).reshape(N_ROWS, -1) for x in (halved, other))
        assert np.all(np.abs(a - b) <= 2.0**-10 * np.abs(b).max(0)), name


def factor(file, name):
    """A or S of a curvature file."""
    vectors = file[f"q_{name}"].double()
    return (vectors * file[f"l_{name}"]) @ vectors.T


@pytest.mark.parametrize("stage", ["factors", "eigenvalues"])
def test_out_of_memory_while_fitting_halves_the_batch_too(project, finished, tmp_path, monkeypatch, capsys, stage):
    first = 0
    if stage == "eigenvalues":  # the second pass over the sample, as many batches as the first
        batches = run_out(monkeypatch, 10**9)
        gdig.fit(**project.options(tmp_path / "count", inversion="kfac"))
        first = len(batches) - TINY["probe_rows"] - N_SEEDS
        monkeypatch.undo()
    tried = run_out(monkeypatch, 4, first)
    gdig.fit(**project.options(tmp_path / "run", quiet=False))
    assert max(tried[first:]) > 4
    assert "out of memory: token_batch_size lowered to" in capsys.readouterr().err
    assert stages(tmp_path / "run")["fit"]["curvature"] == stages(finished)["fit"]["curvature"]
    for file in sorted((finished / "curvature").iterdir()):
        halved, other = load_file(tmp_path / "run" / "curvature" / file.name), load_file(file)
        # Sums over the same tokens in another order, nothing counted twice. The eigenbasis may turn with the rounding;
        # the sum of the corrected eigenvalues, the mean of |G_e|^2, does not.
        for name, x, y in (
            *((name, factor(halved, name), factor(other, name)) for name in ("a", "s")),
            ("corrected", halved["corrected"].sum(), other["corrected"].sum()),
        ):
            assert torch.allclose(x, y, rtol=2.0**-12, atol=2.0**-12 * float(y.abs().max())), name


@pytest.mark.parametrize("stage", ["fit", "sweep"])
def test_one_example_that_does_not_fit(project, tmp_path, monkeypatch, failing, stage):
    if stage == "sweep":
        gdig.fit(**project.options(tmp_path / "run"))
    run_out(monkeypatch, 0)
    message = failing()
    assert re.search(r"one example of \d+ tokens does not fit the memory of cpu; lower max_length", message)
    if stage == "fit":  # without curvature it is the seeds' passes that come first
        assert "error: out of memory on cpu: CUDA out of memory; lower max_length" in failing(
            inversion="identity", run_path=tmp_path / "other"
        )
