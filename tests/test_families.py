"""Every family of causal language models of transformers at gdig's defaults: right scores, or a clear refusal."""

from __future__ import annotations

import pytest
import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from gdig.config.config import Config
from gdig.errors import ModelError
from gdig.model.batches import make_batches
from gdig.model.capture import GradientPass
from gdig.model.causal_model import Model, wrap_model
from gdig.model.head import head_loss
from gdig.model.layer_names import is_expert, is_router
from gdig.model.linearized import Linearized
from gdig.model.load import load_model
from tests.support.families import (
    FUSED_BEFORE_5,
    IS_5,
    NOT_TINY,
    NOT_TINY_BEFORE_5,
    OTHER_EXPERTS,
    OTHER_INPUT_BEFORE_5,
    REFUSED,
    WORKING,
    tiny_model,
)
from tests.support.identity_scores import OPTIONS, SEEDS, compare_with_autograd

QUICK = ["falcon", "gemma3", "granitemoehybrid", "llama4_text", "mamba", "mistral3", "qwen2_5_vl", "qwen2_moe",
         "recurrent_gemma"]  # fmt: skip
"""Families of which each is a case of its own: blocks in parallel, images, shared experts, state space models."""
WORST_SLOPE = {"recurrent_gemma": 1000.0}
"""RecurrentGemma's recurrence takes a root whose slope it cuts at 1,000."""


def at_defaults(family: str, **options) -> Model:
    """In float64, where the family computes in that."""
    config = Config.build({**OPTIONS, **options})
    try:
        return wrap_model(tiny_model(family).double(), config)
    except ModelError:
        raise
    except RuntimeError:  # operations of float32 alone, such as products of grouped matrices
        return wrap_model(tiny_model(family), config)


def skip_unknown(family: str) -> None:
    if family not in CONFIG_MAPPING_NAMES:
        pytest.skip(f"transformers {transformers.__version__} has no {family}")
    if family in NOT_TINY_BEFORE_5 and not IS_5:
        pytest.skip(f"no tiny {family} with transformers {transformers.__version__}: {NOT_TINY_BEFORE_5[family]}")


@pytest.mark.parametrize(
    "family", [pytest.param(x, marks=[] if x in QUICK else pytest.mark.slow) for x in WORKING], ids=str
)
def test_scores_are_those_of_plain_autograd(family):
    skip_unknown(family)
    if family in FUSED_BEFORE_5 and not IS_5:
        with pytest.raises(ModelError, match=OTHER_EXPERTS):
            at_defaults(family)
        return
    if family in OTHER_INPUT_BEFORE_5 and not IS_5:
        with pytest.raises(ModelError, match=rf"cannot pass a few tokens through it: .*{OTHER_INPUT_BEFORE_5[family]}"):
            at_defaults(family)
        return
    model = at_defaults(family)
    modules = dict(model.module.named_modules())
    names = [layer.name for layer in model.layers]
    assert not any(is_router(name, modules) for name in names)
    assert all(layer.expert is not None for layer in model.layers if is_expert(layer.name))
    assert not any("vision" in name or "visual" in name or "image" in name for name in names)
    assert 0 < model.coverage.share <= 1
    compare_with_autograd(model, WORST_SLOPE.get(family, 0.0))


@pytest.mark.parametrize(
    "family", [pytest.param(x, marks=[] if x in ("jetmoe", "hrm_text") else pytest.mark.slow) for x in REFUSED], ids=str
)
def test_a_refusal_says_why(family):
    skip_unknown(family)
    with pytest.raises(ModelError, match=REFUSED[family]):
        at_defaults(family)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt_oss", "mixtral", "phimoe", "qwen3_moe"])
def test_attention_of_models_with_fused_experts_has_right_scores(family):
    skip_unknown(family)
    model = at_defaults(family, layers="attention")
    assert all("attn" in layer.name for layer in model.layers)
    compare_with_autograd(model)


def test_every_family_of_transformers_is_listed_once():
    assert len(WORKING) >= 60 and len({*WORKING, *REFUSED, *NOT_TINY}) == len(WORKING) + len(REFUSED) + len(NOT_TINY)
    if transformers.__version__.startswith("5.24."):
        assert set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) <= {*WORKING, *REFUSED, *NOT_TINY}


def test_coverage_counts_the_weights_beside_the_embeddings():
    model = at_defaults("qwen2_moe")
    modules = {layer.module for layer in model.layers}
    names = {name for name, module in model.module.named_modules() if module in modules}
    total = chosen = 0
    for name, parameter in model.module.named_parameters():
        if "embed" not in name and "lm_head" not in name:
            total += parameter.numel()
            chosen += parameter.numel() * (name.rpartition(".")[0] in names)
    assert model.coverage.share == chosen / total == model.coverage.share_of_blocks
    assert model.coverage.warning is None
    two = r"experts\.down_proj\.[01]$" if IS_5 else r"experts\.[01]\.down_proj$"
    few = at_defaults("qwen2_moe", filter_modules=rf"shared_expert\.|{two}").coverage
    assert few.warning is not None and "left out: model.layers.N.mlp.experts (" in few.warning
    experts = next(m for name, m in model.module.named_modules() if name.endswith("mlp.experts"))
    down = experts.down_proj if IS_5 else [expert.down_proj.weight for expert in experts]
    left_out = sum(p.numel() for p in experts.parameters()) - sum(p.numel() for p in down[:2])
    assert round((model.coverage.share - few.share) * total) == 2 * left_out
    upper = at_defaults("qwen2", layers="upper:0.5").coverage
    assert upper.share < 0.51 and upper.share_of_blocks > 0.95 and upper.warning is None


def test_conjugate_gradients_take_blocks_that_add_in_place():
    """The map of Falcon's blocks, by the gradients that the pass gives: J^T c at c = the loss' gradient is d."""
    model = at_defaults("falcon")
    (batch,) = make_batches([SEEDS[0]], 64)
    given: dict[int, torch.Tensor] = {}
    losses = GradientPass(model, "sum").run(batch, lambda index, a, d, mask: given.__setitem__(index, d.clone()))
    linearized = Linearized(model, batch)
    ones = torch.ones(len(linearized.predictors), dtype=torch.float64)
    _, change, _ = head_loss(model, linearized.predictors, torch.from_numpy(batch.targets[1]), ones)
    for index, pulled in enumerate(linearized.pull(change)):
        assert (pulled - given[index]).abs().max() <= 64 * 2.0**-24 * given[index].abs().max()
    gradients = [given[index] for index in range(len(given))]
    x = [torch.randn_like(d) for d in gradients]
    through = (linearized.push(x) * change).sum()
    expected = float(sum((a * d).sum() for a, d in zip(x, gradients, strict=True)))
    assert float(through) == pytest.approx(expected, rel=1e-6)
    assert losses.isfinite().all()


def test_an_image_encoder_does_not_count():
    """The same text model with an image encoder beside it has the same coverage."""
    both = at_defaults("gemma3"), at_defaults("gemma3_text")
    assert both[0].coverage.share == both[1].coverage.share
    assert [x.name.replace("language_model.", "") for x in both[0].layers] == [x.name for x in both[1].layers]
    assert len(at_defaults("gemma3", filter_modules="fc1|up_proj").layers) == 2  # fc1 is the image encoder's


def test_an_image_text_model_without_a_causal_class_is_loaded(tmp_path):
    module = tiny_model("qwen2_5_vl")
    module.save_pretrained(tmp_path)
    model = load_model(Config.build({**OPTIONS, "model": tmp_path, "quiet": True}))
    assert type(model.module) is type(module)
    for name, tensor in module.state_dict().items():
        assert torch.equal(model.module.state_dict()[name], tensor)
