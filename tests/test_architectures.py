"""Causal models of many families: the pass gives the loss and the gradients that plain autograd gives."""

from __future__ import annotations

import pytest
import torch
import transformers as hf

from gdig.errors import ModelError
from gdig.model.batches import make_batches
from gdig.model.capture import GradientPass
from tests.support import oracle
from tests.support.tiny_models import VOCAB, llama, make_examples, wrapped

SMALL = {"vocab_size": VOCAB, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
         "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}  # fmt: skip
GATED = {**SMALL, "intermediate_size": 24, "num_key_value_heads": 1}
FAMILIES = {
    "qwen2": lambda: hf.Qwen2Config(**GATED),
    "mistral with a sliding window": lambda: hf.MistralConfig(**GATED, sliding_window=4, head_dim=8),
    "gemma2 with a soft cap": lambda: hf.Gemma2Config(**GATED, head_dim=8, final_logit_softcapping=0.5),
    "granite with scaled logits": lambda: hf.GraniteConfig(**GATED, logits_scaling=3.0),
    "phi": lambda: hf.PhiConfig(**SMALL, intermediate_size=24),
    "gpt-neox": lambda: hf.GPTNeoXConfig(**SMALL, intermediate_size=24),
    "opt": lambda: hf.OPTConfig(**SMALL, ffn_dim=24, word_embed_proj_dim=16),
    "bloom": lambda: hf.BloomConfig(vocab_size=VOCAB, hidden_size=16, n_layer=2, n_head=2),
}


def _model(family: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return hf.AutoModelForCausalLM.from_config(FAMILIES[family]()).double()


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_pass_gives_loss_and_gradients_of_plain_autograd(family):
    model, _ = wrapped(_model(family))
    examples = make_examples(6, 1, 3, 12)
    names = [layer.name for layer in model.layers]
    assert len(names) >= 4
    gradients = {}
    passes = GradientPass(model)
    for batch in make_batches(examples, 64, window=model.window):

        def sink(index, a, d, mask, batch=batch):
            g = (d.unflatten(0, batch.shape).transpose(1, 2) @ a.unflatten(0, batch.shape)).clone()
            for line, row in enumerate(batch.rows.tolist()):
                gradients[row, names[index]] = g[line]

        losses = passes.run(batch, sink)
        for line, row in enumerate(batch.rows.tolist()):
            pairs, loss = oracle.captured(model.module, names, examples[row])
            # Norms of these families compute in float32 whatever the model's dtype: 2^-24 an operation, some ten deep.
            assert losses[line] == pytest.approx(loss, rel=1e-6)
            for name in names:
                want = oracle.gradient(pairs[name])[:, : gradients[row, name].shape[1]]
                assert (gradients[row, name] - want).abs().max() <= 1e-5 * want.abs().max() + 1e-12


def test_a_model_that_changes_its_logits_is_found():
    assert wrapped(_model("gemma2 with a soft cap"))[0].head is None
    assert wrapped(_model("granite with scaled logits"))[0].head is None
    assert wrapped(_model("qwen2"))[0].head is not None


def test_layers_by_name_preset_and_error():
    assert [x.name for x in wrapped(llama(), filter_modules=r"self_attn\.[qv]_proj")[0].layers] == [
        f"model.layers.{i}.self_attn.{side}_proj" for i in (0, 1) for side in "qv"
    ]
    paper = wrapped(llama(), preset="paper")[0]
    assert [x.name for x in paper.layers] == ["model.layers.0.mlp.down_proj"]
    bloom = wrapped(_model("bloom"), preset="paper")[0]
    assert [x.name for x in bloom.layers] == [f"transformer.h.{i}.mlp.dense_h_to_4h" for i in (0, 1)]
    with pytest.raises(ModelError, match=r"matches no linear layer; there are: model\.layers\.N\.mlp\.down_proj"):
        wrapped(llama(), filter_modules="nothing")
    with pytest.raises(ModelError, match="matches no linear layer"):
        wrapped(llama(), filter_modules="lm_head")  # runs on labelled positions only: never a layer


class _Routed(torch.nn.Module):
    """Every second token goes through an expert."""

    def __init__(self):
        super().__init__()
        self.expert = torch.nn.Linear(16, 16, bias=False)

    def forward(self, x):
        tokens = x.reshape(-1, x.shape[-1])
        return tokens.index_add(0, torch.arange(0, len(tokens), 2), self.expert(tokens[::2])).view_as(x)


def test_experts_that_see_some_tokens_are_refused():
    module = llama()
    module.model.layers[1].mlp = _Routed()
    (batch, *_) = make_batches(make_examples(4, 1), 256)
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.expert: sees \d+ of the batch's \d+ tokens"):
        GradientPass(wrapped(module, filter_modules="mlp")[0]).run(batch, lambda *_: None)
    model, _ = wrapped(module)
    assert {layer.name.rpartition(".mlp.")[0] for layer in model.layers} == {"model.layers.0"}
    model, _ = wrapped(module, filter_modules="proj")
    GradientPass(model).run(batch, lambda *_: None)


def test_a_layer_that_no_gradient_reaches_is_named():
    module = llama()
    module.model.layers[1].unused = torch.nn.Linear(16, 16)
    (batch, *_) = make_batches(make_examples(4, 1), 256)
    with pytest.raises(ModelError, match=r"no gradient reaches model\.layers\.1\.unused"):
        GradientPass(wrapped(module, filter_modules="mlp|unused")[0]).run(batch, lambda *_: None)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
@pytest.mark.parametrize("layers", [1, 2])
def test_the_last_states_are_what_the_base_model_returns(family, layers):
    """After the final norm, also where the logits come from the whole model."""
    model, _ = wrapped(_model(family), hidden_layers=layers)
    ids = torch.arange(3, 11)[None]
    top, states = model.with_states(ids)
    assert len(states) == layers and torch.equal(top, model.hidden(ids))
    assert torch.equal(states[-1], model.base(input_ids=ids, use_cache=False).last_hidden_state)
