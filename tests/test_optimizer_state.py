"""Adam's moments from checkpoints: each parameter gets its own, and a state of another model is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from gdig.errors import ModelError
from gdig.model.layers import as_layer
from gdig.model.optimizer import Moments, read_adam, save_moments
from gdig.model.optimizer_names import canonical
from tests.support.project_fixtures import gpt2_module, llama_module
from tests.support.training import moments_of, train

pytestmark = pytest.mark.slow

VOCAB = 40


def adapter_of(module: nn.Module) -> nn.Module:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=["up_proj", "down_proj"], init_lora_weights=False)
    return peft.get_peft_model(module, config)


KINDS = {
    "llama": lambda: llama_module(VOCAB),
    "tied": lambda: llama_module(VOCAB, tied=True),
    "gpt2": lambda: gpt2_module(VOCAB),
    "adapter": lambda: adapter_of(llama_module(VOCAB)),
}


@pytest.fixture(scope="module", params=KINDS)
def trained(request, tmp_path_factory):
    """A trained module, its checkpoint, and its optimizer's own state by name."""
    module = KINDS[request.param]()
    folder = tmp_path_factory.mktemp(request.param)
    trainer = train(module, folder, VOCAB)
    return module, folder / "checkpoint-4", moments_of(trainer.optimizer, module), trainer.optimizer


def check(adam, truth) -> None:
    assert set(adam.moments) == {canonical(name) for name in truth}
    for name, state in truth.items():
        moments = adam.moments[canonical(name)]
        assert torch.equal(moments.m, state["exp_avg"]) and torch.equal(moments.v, state["exp_avg_sq"])
        assert (moments.step, moments.betas, moments.eps) == (4, (0.9, 0.999), 1e-8)


def base_of(module: nn.Module) -> nn.Module:
    return module.get_base_model() if hasattr(module, "get_base_model") else module


def test_each_parameter_of_a_trainer_gets_its_own(trained):
    module, checkpoint, truth, _ = trained
    adam = read_adam(checkpoint, base_of(module))
    check(adam, truth)
    assert adam.learning_rate == 0  # the schedule has come to its end


def test_moments_written_by_name_are_the_same(trained, tmp_path):
    module, _, truth, optimizer = trained
    save_moments(optimizer.optimizer, module, tmp_path / "optimizer.safetensors")
    check(read_adam(tmp_path, base_of(module)), truth)


def test_states_with_names_are_taken_by_name(trained, tmp_path):
    """FSDP's state has names for keys, a torch optimizer of named parameters lists them; the order is another."""
    module, _, truth, optimizer = trained
    names = list(reversed(truth))
    group = {**optimizer.state_dict()["param_groups"][0], "params": names}
    torch.save({"state": dict(truth), "param_groups": [group]}, tmp_path / "optimizer.bin")
    check(read_adam(tmp_path, base_of(module)), truth)
    group = {**group, "params": list(range(len(names))), "param_names": names}
    states = {number: truth[name] for number, name in enumerate(names)}
    torch.save({"state": states, "param_groups": [group]}, tmp_path / "optimizer.bin")
    check(read_adam(tmp_path, base_of(module)), truth)


def test_one_group_of_all_parameters_as_accelerate_keeps_it(tmp_path):
    module = llama_module(VOCAB)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    for _ in range(4):
        module(input_ids=torch.arange(10)[None], labels=torch.arange(10)[None]).loss.backward()
        optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.bin")
    adam = read_adam(tmp_path, module)
    check(adam, moments_of(optimizer, module))
    assert adam.learning_rate == 1e-3


def test_a_layer_has_its_moments_as_its_gradient_lies(trained):
    module, checkpoint, truth, _ = trained
    base = base_of(module)
    adam = read_adam(checkpoint, base)
    names = {id(parameter): name for name, parameter in base.named_parameters()}
    by_name = {canonical(name): state for name, state in truth.items()}
    seen = 0
    for name, submodule in base.named_modules():
        layer = as_layer(name, submodule)
        if layer is None:
            continue
        moments = adam.of_layer(layer, names)
        weight = by_name.get(canonical(names[id(submodule.weight)]))
        if weight is None:
            assert moments is None
            continue
        seen += 1
        for which, tensor in (("exp_avg", moments.m), ("exp_avg_sq", moments.v)):
            expected = weight[which].T if type(submodule).__name__ == "Conv1D" else weight[which]
            if layer.bias:
                bias = by_name[canonical(names[id(submodule.bias)])][which]
                expected = torch.cat([expected, bias[:, None]], dim=1)
            assert torch.equal(tensor, expected)
    assert seen


def test_the_direction_is_the_step_that_adam_takes():
    """torch's own Adam, asked to step with a gradient: -lr times the direction. Its eps stands outside of the root."""
    torch.manual_seed(0)
    for size in (1.0, 1e-9):  # at 1e-9 eps is all that counts
        weight = nn.Parameter(torch.zeros(6, 5, dtype=torch.float64))
        optimizer = torch.optim.Adam([weight], lr=0.5, betas=(0.8, 0.95), eps=1e-8)
        for _ in range(3):
            weight.grad = size * torch.randn(6, 5, dtype=torch.float64)
            optimizer.step()
        state, before = optimizer.state[weight], weight.detach().clone()
        moments = Moments(state["exp_avg"].clone(), state["exp_avg_sq"].clone(), 3, (0.8, 0.95), 1e-8)
        g = size * torch.randn(6, 5, dtype=torch.float64)
        direction = moments.direction(g.clone()[None])[0]
        weight.grad = g
        optimizer.step()
        np.testing.assert_allclose(direction, (before - weight.detach()) / 0.5, rtol=1e-12, atol=1e-14)


@pytest.fixture(scope="module")
def llama_checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("states")
    train(llama_module(VOCAB), folder, VOCAB)
    return folder / "checkpoint-4"


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: llama_module(VOCAB + 1), r"optimizer\.pt: numbers its parameters.*embed_tokens\.weight would have"),
        (lambda: gpt2_module(VOCAB), r"optimizer\.pt: numbers its parameters \(groups of 16, 5\), and they do not fit"),
        (lambda: adapter_of(llama_module(VOCAB)).get_base_model(), "do not fit this model"),
    ],
)
def test_a_state_of_another_model_is_refused(llama_checkpoint, other, message):
    with pytest.raises(ModelError, match=message):
        read_adam(llama_checkpoint, other())


def test_what_is_no_state_of_adam_is_refused(llama_checkpoint, tmp_path):
    module = llama_module(VOCAB)
    with pytest.raises(ModelError, match=r"expected the optimizer's state in optimizer\.safetensors, optimizer\.pt"):
        read_adam(tmp_path, module)
    file = tmp_path / "optimizer.pt"
    file.write_bytes(b"no zip")
    with pytest.raises(ModelError, match="cannot be read as the state of a torch optimizer"):
        read_adam(tmp_path, module)
    saved = torch.load(llama_checkpoint / "optimizer.pt", weights_only=True)

    def refused(message: str) -> None:
        torch.save(saved, file)
        with pytest.raises(ModelError, match=message):
            read_adam(tmp_path, module)

    state = saved["state"][3]
    state["exp_avg_sq"][0, 0] = -1.0
    refused(r"optimizer\.pt: model\.layers\.0\.self_attn\.v_proj\.weight: exp_avg_sq: expected numbers >= 0")
    state["exp_avg_sq"][0, 0] = float("nan")
    refused("exp_avg_sq: expected finite numbers")
    state["state1"], state["state2"] = state["exp_avg"], state.pop("exp_avg_sq")
    refused(r"expected Adam's exp_avg and exp_avg_sq, got \['exp_avg', 'state1', 'state2', 'step'\]")
