"""The option `layers`: which layers it chooses, and that nothing runs backward below the lowest of them."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
import transformers as hf

from gdig.config.layer_choice import LayerChoice, parse_layers
from gdig.errors import ConfigError, ModelError
from gdig.model.batches import make_batches
from gdig.model.capture import GradientPass
from gdig.model.layer_names import block_of, is_mlp, is_router
from tests.support import oracle
from tests.support.tiny_models import VOCAB, llama, make_examples, wrapped

MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")


def chosen(module, **options) -> list[str]:
    return [layer.name for layer in wrapped(module, **options)[0].layers]


def names(blocks, layers) -> list[str]:
    return [f"model.layers.{i}.{layer}" for i in blocks for layer in layers]


def deep_llama(blocks: int) -> torch.nn.Module:
    torch.manual_seed(0)
    return hf.LlamaForCausalLM(hf.LlamaConfig(
        vocab_size=VOCAB, hidden_size=8, intermediate_size=8, num_hidden_layers=blocks, num_attention_heads=2,
        max_position_embeddings=32,
    ))  # fmt: skip


def test_the_grammar():
    assert parse_layers("all") == LayerChoice("all")
    assert parse_layers("upper:0.25") == LayerChoice("all", Fraction(1, 4))
    assert parse_layers("mlp:upper:.5") == LayerChoice("mlp", Fraction(1, 2))
    assert parse_layers("attention:upper:1") == LayerChoice("attention")
    for wrong in ("", "upper", "upper:0", "upper:1.5", "mlp:", "mlp:0.5", "mlpupper:0.5", ":upper:0.5", "lower:0.5"):
        with pytest.raises(ConfigError, match=r"^layers=.*: expected all, mlp or attention, upper:SHARE, or both"):
            parse_layers(wrong)


def test_a_share_of_the_blocks_is_rounded_up_and_is_exact():
    assert [parse_layers("upper:0.1").n_upper(n) for n in (1, 10, 11, 30, 1000)] == [1, 1, 2, 3, 100]
    assert parse_layers("all").n_upper(30) == 30


def test_kinds_and_depth_choose_layers():
    model = deep_llama(11)  # more than ten blocks: their numbers are no letters
    assert chosen(model, layers="mlp") == names(range(11), MLP)
    assert chosen(model, layers="attention") == names(range(11), ATTENTION)
    assert chosen(model, layers="all") == names(range(11), ATTENTION + MLP)
    assert chosen(model, layers="upper:0.25") == names((8, 9, 10), ATTENTION + MLP)
    assert chosen(model, layers="mlp:upper:0.25") == names((8, 9, 10), MLP)
    assert chosen(model, layers="attention:upper:0.01") == names((10,), ATTENTION)


def test_the_default_is_the_upper_quarter_of_the_mlps_and_at_least_four_blocks():
    assert chosen(deep_llama(20)) == names(range(15, 20), MLP)
    assert chosen(deep_llama(11)) == names(range(7, 11), MLP)
    assert chosen(deep_llama(3)) == chosen(deep_llama(3), layers="mlp") == names(range(3), MLP)
    # Blocks without an MLP do not count, wherever they are.
    model = deep_llama(20)
    for block in (*range(4), *range(12, 20)):
        model.model.layers[block].mlp = torch.nn.Identity()
    assert chosen(model) == names(range(8, 12), MLP)
    assert chosen(model, layers="attention:upper:0.1") == names((18, 19), ATTENTION)


def test_layers_and_filter_modules_both_have_to_choose_a_layer():
    model = deep_llama(4)
    assert chosen(model, layers="upper:0.5", filter_modules="down_proj") == names((2, 3), MLP[2:])
    assert chosen(model, filter_modules="q_proj") == names(range(4), ATTENTION[:1])
    with pytest.raises(ModelError, match="layers='mlp' and filter_modules='q_proj' choose no common layer"):
        wrapped(model, layers="mlp", filter_modules="q_proj")


def test_an_option_that_is_given_wins_over_the_preset():
    assert chosen(deep_llama(4), preset="paper") == names((0, 3), MLP[2:])
    assert chosen(deep_llama(4), preset="paper", layers="mlp:upper:0.25") == names((3,), MLP)


def test_a_part_of_a_name_says_what_a_layer_is():
    assert block_of("base_model.model.model.layers.12.mlp.up_proj.lora_A.default") == "base_model.model.model.layers.12"
    assert block_of("transformer.h.3.ffn.0") == "transformer.h.3"
    assert block_of("model.altup_projections.0") is None
    assert block_of("model.altup_projections.0.lora_A.default") is None
    for name in ("h.1.mlp.c_fc", "h.1.fc1", "h.1.shared_mlp.input_linear", "h.1.mlp_block.up_proj", "h.1.output.dense",
                 "h.1.feed_forward.w1", "h.1.mlp.shared_expert.up_proj", "h.1.mlps.0.up_proj"):  # fmt: skip
        assert is_mlp(name, {}), name
    modules = {name: torch.nn.Module() for name in ("h.1", "h.1.attn", "h.1.attention", "h.1.attention.output")}
    for name in ("h.1.attn.c_proj", "h.1.attention.output.dense"):
        assert not is_mlp(name, modules), name


def test_a_gate_is_a_router_only_beside_experts():
    moe, dense = torch.nn.Module(), torch.nn.Module()
    moe.gate, moe.experts, moe.shared_expert_gate = torch.nn.Linear(2, 2), torch.nn.Module(), torch.nn.Linear(2, 1)
    dense.gate, dense.up = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    modules = {"h.0.mlp": moe, "h.1.mlp": dense, "h.2.mlp": dense}
    assert is_router("h.0.mlp.gate", modules) and is_router("h.0.mlp.shared_expert_gate", modules)
    assert not is_router("h.1.mlp.gate", modules) and not is_router("h.1.mlp.gate_proj", modules)
    assert is_router("h.2.mlp.router.classifier", modules)
    listed, fused, glu = torch.nn.Module(), torch.nn.Module(), torch.nn.Module()
    for module in (listed, fused, glu):
        module.gate = torch.nn.Linear(2, 2)
    listed.ffns = torch.nn.ModuleList([torch.nn.Linear(2, 2)] * 2)
    fused.mixture = torch.nn.Module()
    fused.mixture.w1 = torch.nn.Parameter(torch.zeros(3, 2, 2))
    glu.norms, glu.conv = torch.nn.ModuleList([torch.nn.LayerNorm(2)] * 2), torch.nn.Conv1d(2, 2, 2)
    modules = {"h.0.mlp": listed, "h.1.mlp": fused, "h.2.mlp": glu}
    assert is_router("h.0.mlp.gate", modules) and is_router("h.1.mlp.gate", modules)
    assert not is_router("h.2.mlp.gate", modules)


@pytest.mark.parametrize("layers", ["mlp", "upper:0.5", "attention:upper:0.25"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "gradient checkpointing"])
def test_nothing_runs_backward_below_the_lowest_chosen_layer(layers, checkpointing):
    model, _ = wrapped(deep_llama(4), layers=layers, gradient_checkpointing=checkpointing)
    lowest = min(int(layer.name.split(".")[2]) for layer in model.layers)
    blocks = model.base.layers
    backward = dict.fromkeys(["embeddings", *range(len(blocks))], 0)

    def count(key):
        def forward(module, args, output):
            if output.requires_grad:
                output.register_hook(lambda gradient: backward.__setitem__(key, backward[key] + 1))

        return forward

    model.base.embed_tokens.register_forward_hook(count("embeddings"))
    for i, block in enumerate(blocks):
        block.register_forward_hook(count(i))
    batches = make_batches(make_examples(6, 1, 3, 12), 64, window=model.window)
    passes, seen = GradientPass(model), set()
    for batch in batches:
        passes.run(batch, lambda index, *_: seen.add(index))
    assert seen == set(range(len(model.layers)))
    assert backward == {"embeddings": 0} | {i: len(batches) * (i >= lowest) for i in range(len(blocks))}


def test_chosen_layers_do_not_change_each_others_gradients():
    """Gradients at upper layers alone are those of the pass over all layers, and of plain autograd."""
    module = llama()
    chosen = {}
    for layers in ("all", "upper:0.5"):
        model, _ = wrapped(module, layers=layers)
        (example,) = make_examples(1, 3)
        (batch,) = make_batches([example], 64, window=model.window)
        given = {}
        GradientPass(model).run(batch, lambda i, a, d, _, given=given: given.__setitem__(i, (a.clone(), d.clone())))
        chosen[layers] = {model.layers[i].name: pair for i, pair in given.items()}
    pairs, _ = oracle.captured(module, list(chosen["all"]), example)
    for name, (a, d) in chosen["upper:0.5"].items():
        assert torch.equal(a, chosen["all"][name][0]) and torch.equal(d, chosen["all"][name][1])
        want = oracle.gradient(pairs[name])
        assert (d.T @ a - want).abs().max() <= 1e-12 * want.abs().max()
