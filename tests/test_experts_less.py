"""LESS on mixtures of experts: cosines against plain autograd, with the state that the optimizer held."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file

import gdig
from gdig.config.config import Config
from gdig.model.load import load_model
from gdig.model.optimizer import Adam, Moments
from gdig.progress import Progress
from gdig.run.session import Workspace
from tests.support.families import tiny_model
from tests.support.mixtures import mixture, plain_gradients
from tests.support.project_fixtures import save_model, stages
from tests.support.tiny_models import make_examples
from tests.support.training import moments_of, train

pytestmark = pytest.mark.skipif(
    int(transformers.__version__.split(".")[0]) < 5, reason="experts are fused since transformers 5"
)


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss", "llama4_text"])
def test_an_expert_gets_its_part_of_the_moments(family):
    """However the parameter of all experts lies, and with its biases: as plain autograd lays out the gradient."""
    model, _ = mixture(family)
    _, gradients = plain_gradients(model, make_examples(1, 1, 12, 12)[0])
    parameters = dict(model.module.named_parameters())
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    example = make_examples(1, 1, 12, 12)[0]
    ids, labels = (torch.tensor(np.array(x)).long() for x in (example.input_ids, example.labels))
    logits = model.module(input_ids=ids[None], use_cache=False).logits[0, :-1]
    torch.nn.functional.cross_entropy(logits, labels[1:], ignore_index=-100).backward()
    moments = {
        name: Moments(p.grad, p.grad.square(), 1, (0.9, 0.999), 1e-8)
        for name, p in parameters.items()
        if p.grad is not None
    }
    adam, names = Adam("adam", moments, 0.1), {id(p): name for name, p in parameters.items()}
    experts = [layer for layer in model.layers if layer.expert is not None]
    assert experts
    for layer in model.layers:
        of_layer = adam.of_layer(layer, names)
        assert torch.equal(of_layer.m, gradients[layer.name].float()), layer.name
        assert torch.equal(of_layer.v, gradients[layer.name].square().float()), layer.name


@pytest.mark.slow
def test_cosines_are_those_of_plain_autograd(project, tiny_tokenizer, tmp_path):
    """A row that does not go to an expert has a direction there too: the momentum's."""
    module = tiny_model(
        "qwen3_moe", vocab_size=len(tiny_tokenizer), max_position_embeddings=128, num_experts=16, num_local_experts=16
    )
    model = save_model(tmp_path / "model", module, tiny_tokenizer)
    trainer = train(module, tmp_path / "training", len(tiny_tokenizer))
    truth = moments_of(trainer.optimizer, module)
    checkpoint = str(tmp_path / "training" / "checkpoint-4")
    options = project.options(
        tmp_path / "run", model=str(model), checkpoints=(checkpoint,), method="less", inversion="identity",
        layers="upper:0.5", token_batch_size=128,
    )  # fmt: skip
    selection = gdig.select(**options)
    assert len(selection.rows)
    (key,) = stages(tmp_path / "run")["sweep"]["checkpoint_order"]
    shards = sorted((tmp_path / "run" / "checkpoints" / key / "shards").glob("*.safetensors"))
    cosine = np.concatenate([load_file(file)["cosine"] for file in shards])

    loaded = load_model(Config.build({**options, "model": checkpoint}))
    assert stages(tmp_path / "run")["sweep"]["checkpoints"][key]["layers"] == len(loaded.layers) > 16
    module = loaded.module.double()
    module.set_experts_implementation("eager")  # the grouped product takes no float64
    work = Workspace(Config.build(options), Progress(quiet=True))
    rows = [work.encoder.encode(work.candidates, [row])[0] for row in range(60)]
    weights = {}
    for layer in loaded.layers:
        name = layer.expert.parameter if layer.expert else "weight"
        weights[id(getattr(layer.module, name))] = getattr(layer.module, name).requires_grad_(True)
    names = {id(p): name for name, p in module.named_parameters()}
    states = [truth[names[number]] for number in weights]

    def gradient(example) -> list[torch.Tensor]:
        ids, labels = (torch.tensor(x[None].astype(np.int64)) for x in (example.input_ids, example.labels))
        return list(torch.autograd.grad(module(input_ids=ids, labels=labels).loss, list(weights.values())))

    def direction(g: torch.Tensor, state: dict) -> torch.Tensor:
        t = int(state["step"]) + 1
        m = (0.9 * state["exp_avg"].double() + 0.1 * g) / (1 - 0.9**t)
        v = (0.999 * state["exp_avg_sq"].double() + 0.001 * g**2) / (1 - 0.999**t)
        return m / (v.sqrt() + 1e-8)

    seeds = [torch.cat([g.flatten() for g in gradient(seed)]) for seed in work.seed_examples]
    exact, absent = [], 0
    for row in rows:
        gradients = gradient(row)
        absent += sum(int((g.flatten(1) == 0).all(1).sum()) for g in gradients if g.dim() == 3)
        along = torch.cat([direction(g, s).flatten() for g, s in zip(gradients, states, strict=True)])
        exact.append([float(torch.nn.functional.cosine_similarity(along, seed, dim=0)) for seed in seeds])
    assert absent > 10 and np.abs(exact).max() > 0.05  # not a comparison of noise
    # As for dense layers: where the moments are small, an error of 1e-6 in g / sqrt(v) is one in the cosine.
    np.testing.assert_allclose(cosine, np.array(exact), atol=2e-5)
