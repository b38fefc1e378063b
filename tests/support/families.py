"""A tiny model of each family of causal language models that transformers has, with random weights."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tests.support.tiny_models import VOCAB

IS_5 = int(transformers.__version__.split(".")[0]) >= 5
"""Whether transformers is no 4 any more."""

_SIZES: dict[str, Any] = {
    # Widths.
    "vocab_size": VOCAB, "hidden_size": 16, "n_embd": 16, "d_model": 16, "dim": 16, "emb_dim": 16, "embedding_size": 16,
    "word_embed_proj_dim": 16, "dim_model": 16, "intermediate_size": 24, "ffn_dim": 24, "n_inner": 24, "dff": 24,
    "decoder_ffn_dim": 24, "encoder_ffn_dim": 24, "dim_ff": 24, "d_inner": 24, "ffn_hidden_size": 24, "lru_width": 16,
    # Blocks.
    "num_hidden_layers": 2, "n_layer": 2, "n_layers": 2, "num_layers": 2, "decoder_layers": 2, "encoder_layers": 1,
    "num_decoder_layers": 2, "num_encoder_layers": 1, "depth": 1,
    # Attention.
    "num_attention_heads": 2, "n_head": 2, "n_heads": 2, "num_heads": 2, "decoder_attention_heads": 2,
    "encoder_attention_heads": 2, "num_decoder_attention_heads": 2, "num_encoder_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 8, "dim_head": 8, "d_head": 8, "d_kv": 8, "q_lora_rank": 8, "kv_lora_rank": 8,
    "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8, "sliding_window": 8, "attention_window_size": 8,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    # Positions and marks.
    "max_position_embeddings": 64, "n_positions": 64, "n_ctx": 64, "max_seq_len": 64, "context_length": 64,
    "max_sequence_length": 64, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
    # Experts.
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4, "num_experts_per_tok": 2,
    "moe_k": 2, "moe_topk": 2, "n_shared_experts": 1, "num_shared_experts": 1, "moe_intermediate_size": 8,
    "shared_expert_intermediate_size": 8, "shared_intermediate_size": 8, "expert_ffn_hidden_size": 8, "n_group": 1,
    "topk_group": 1, "first_k_dense_replace": 1,
    # State space models.
    "state_size": 4, "mamba_d_state": 4, "ssm_state_size": 4, "mamba_num_heads": 2, "mamba_head_dim": 16,
    "mamba_n_heads": 2, "mamba_d_head": 16, "mamba_dt_rank": 2, "time_step_rank": 2, "mamba_n_groups": 1, "n_groups": 1,
    "mamba_expand": 2,
    # Images.
    "image_size": 8, "patch_size": 4, "num_channels": 3, "projection_dim": 16, "out_hidden_size": 16,
}  # fmt: skip
_MROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
_SPECIAL: dict[str, dict[str, Any]] = {
    "codegen": {"rotary_dim": 4},
    "falcon_h1": {"mamba_d_ssm": 32},
    "gemma3n_text": {
        "num_kv_shared_layers": 0,
        "layer_types": ["sliding_attention", "full_attention"],
        "vocab_size_per_layer_input": VOCAB,
        "hidden_size_per_layer_input": 8,
        "laurel_rank": 4,
        "activation_sparsity_pattern": [0.0, 0.0],
    },
    "gemma4_text": {
        "vocab_size_per_layer_input": VOCAB,
        "hidden_size_per_layer_input": 8,
        "global_head_dim": 8,
        "num_kv_shared_layers": 0,
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 4},
    "gptj": {"rotary_dim": 4},
    "granitemoehybrid": {} if IS_5 else {"layer_types": ["mamba", "mamba"]},  # 4.57 does not make its default
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 4, "head_dim": 8, "n_groups": 1, "chunk_size": 8},
    "mimo_v2_flash": {"partial_rotary_factor": 0.5},
    "qwen2_vl_text": {"rope_parameters": _MROPE},
    "qwen2_5_vl_text": {"rope_parameters" if IS_5 else "rope_scaling": _MROPE},
    "qwen2_vl": {"vision_start_token_id": 40, "image_token_id": 41, "video_token_id": 42},
    "rembert": {"input_embedding_size": 16, "output_embedding_size": 16},
    "xlm": {"causal": True},
    "xlstm": {"autocast_kernel_dtype": "float32"},
    "xmod": {"default_language": "en_XX"},
    "zaya": {"num_experts_per_tok": 1},
    "zamba2": {"layer_types": ["mamba", "hybrid"], "mamba_headdim": 16, "n_mamba_heads": 2},
    "zamba": {"layer_types": ["mamba", "hybrid"]},
}


WORKING = (  # noqa: SIM905  # as a list it would have a line a name
    "afmoe apertus apertus1p5_text arcee aria_text axk1 axk2 aya_vision bailing_hybrid bamba bart beam bert "
    "bert-generation big_bird bigbird_pegasus biogpt bitnet blenderbot blenderbot-small bloom camembert codegen "
    "cohere cohere2 cohere2_moe ctrl cwm data2vec-text deepseek_v2 deepseek_v3 deepseek_v32 deepseek_v4 diffllama "
    "doge dots1 dots3_note_text electra emu3 ernie ernie4_5 ernie4_5_moe exaone exaone4 exaone_moe falcon falcon_h1 "
    "falcon_mamba flex_olmo flint fuyu gemma gemma2 gemma3 gemma3_text gemma3n_text gemma4 gemma4_text gemma4_unified "
    "gemma4_unified_text git glm glm4 glm4_moe glm4_moe_lite glm_moe_dsa gpt-sw3 gpt2 gpt_bigcode gpt_neo gpt_neox "
    "gpt_neox_japanese gpt_oss gptj granite granite_swa granitemoe granitemoe_swa granitemoehybrid granitemoeshared "
    "helium hunyuan_v1_dense hunyuan_v1_moe hy_v3 hy_v4 hyperclovax idefics3 internlm3 internvl inkling_text "
    "iquestcoder jais2 jamba kolibri1 laguna lara_mini lfm2 lfm2_moe lfm2_vl lfm3 llama llama4 llama4_text llava "
    "llava_next mamba mamba2 marian mbart megatron-bert mellum minicpm3 minicpmv4_6 minimax minimax_m2 "
    "minimax_m3_vl_text ministral ministral3 mistral mistral3 mixtral mllama modernbert-decoder moshi "
    "moss_transcribe_diarize mpt mvp nanochat nemotron nemotron_h olmo olmo2 olmo3 olmo_hybrid olmoe openai-gpt opt "
    "pegasus persimmon phi phi3 phimoe plbart qwen2 qwen2_5_vl qwen2_moe qwen3 qwen3_5 qwen3_5_moe qwen3_5_moe_text "
    "qwen3_5_text qwen3_moe qwen3_next qwen3_vl qwen3_vl_moe qwen4_exp qwen4_exp_text recurrent_gemma rembert roberta "
    "roberta-prelayernorm roformer rwkv sarvam_mla sarvam_moe seed_oss smollm3 smolvlm solar_open stablelm starcoder2 "
    "trocr vaultgemma whisper xglm xlm xlm-roberta xlm-roberta-xl xlstm xmod youtu zaya "
).split()
"""Families with right scores at the defaults, by their model type; image-text models by their text alone."""

FUSED_BEFORE_5 = ("aria_text", "gpt_oss", "granitemoe", "granitemoehybrid", "granitemoeshared")
"""Families with fused experts of their own form in an earlier transformers, where those of most are in lists."""

NOT_TINY_BEFORE_5: dict[str, str] = {
    **dict.fromkeys(
        ["emu3", "fuyu", "git", "llama4", "mllama", "moshi", "qwen3_vl", "qwen3_vl_moe"],
        "its configuration does not take parts made beforehand"),
    "apertus": "its activation cannot be made without numbers",
    "codegen": "it has four heads or more",
}  # fmt: skip
"""Families of which this module makes a tiny model from transformers 5 on, and why not before."""

OTHER_INPUT_BEFORE_5 = {"openai-gpt": "unexpected keyword argument 'use_cache'", "jamba": "Fast Mamba kernels"}
"""Families whose base in an earlier transformers does not take what gdig gives, and what it says: for Jamba, at the
defaults of its configuration, without the kernels."""

OTHER_EXPERTS = r"gdig cannot take gradients of its experts \(model\..*\): expected .*choose layers=attention"
_NOT_CAUSAL = "a later token changes the hidden states of earlier tokens"
_TWICE = r"mlp\.gate_proj is used twice in a pass; choose other layers"
REFUSED: dict[str, str] = {
    **dict.fromkeys(["jetmoe", "longcat_flash"], OTHER_EXPERTS),
    **dict.fromkeys(["cpmant", "paligemma", "xlnet"], _NOT_CAUSAL),
    **dict.fromkeys(["dory", "hrm_text"], _TWICE),
    "prophetnet": r"feed_forward\.intermediate sees some tokens only; choose other layers",
}  # fmt: skip
"""Families that the defaults refuse, and the pattern of the sentence that says why and what does work."""

NOT_TINY: dict[str, str] = {
    **dict.fromkeys(["musicgen", "musicgen_melody"], "a model of sounds, without text tokens"),
    **dict.fromkeys(["gemma3n"], "needs packages for images"),
    **dict.fromkeys(["gemma4_assistant", "gemma4_unified_assistant"], "drafts from another model's hidden states"),
    **dict.fromkeys(
        ["blt", "got_ocr2", "inkling2_loop_text", "inkling2_text", "kimi_linear", "phi4_multimodal", "roc_bert"],
        "has sizes that its configuration does not name"),
    **dict.fromkeys(
        ["cohere_compass_text", "dbrx", "dots3_note", "mimo_v2_flash", "reformer", "zamba", "zamba2"],
        "its configuration accepts no two small blocks"),
}  # fmt: skip
"""Families of the mapping that this module makes no tiny model of, and why."""


def tiny_config(model_type: str, **options: Any) -> Any:
    """A configuration of few weights: a small value for each size that the family names, also of its parts."""
    kind = CONFIG_MAPPING[model_type]
    return _tiny(kind, {**_SPECIAL.get(model_type, {}), **options})


def _tiny(kind: Any, options: dict[str, Any]) -> Any:
    names = set(inspect.signature(kind.__init__).parameters)
    if dataclasses.is_dataclass(kind):
        names |= {field.name for field in dataclasses.fields(kind)}
    modules = {}
    for name in set(getattr(kind, "sub_configs", {})) - set(options):
        module = getattr(kind(), name, None)
        if module is not None:
            modules[name] = _tiny(type(module), _SPECIAL.get(module.model_type, {}))
    sizes = {name: value for name, value in _SIZES.items() if name in names}
    config = kind(**sizes | modules | options)
    if any(getattr(config, name, None) is None for name in modules):  # in transformers 4 some classes take dicts alone
        config = kind(**sizes | {name: module.to_dict() for name, module in modules.items()} | options)
    config.is_decoder = True  # for models of BERT's kind
    return config


def tiny_model(model_type: str, **options: Any) -> torch.nn.Module:
    """A model of the family with random weights, in float32."""
    torch.manual_seed(0)
    config = tiny_config(model_type, **options)
    auto = AutoModelForCausalLM if model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES else AutoModelForImageTextToText
    with torch.device("meta"):
        n_weights = sum(p.numel() for p in auto.from_config(config).parameters())
    assert n_weights < 1_000_000, f"{model_type}: {n_weights} weights are not tiny"
    return auto.from_config(config)
