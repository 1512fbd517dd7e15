"""Configs as models on the Hugging Face Hub have them, every key but the sizes as published."""

import copy
import json

import pytest

from bayesft.errors import ModelError
from bayesft.lm.families import read_architecture
from bayesft.lm.rotary import Llama3Scaling, Rope

SHARED = {
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-05,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.45.0",
    "use_cache": True,
    "vocab_size": 97,
}
GPT2 = {
    "activation_function": "gelu_new",
    "architectures": ["GPT2LMHeadModel"],
    "attn_pdrop": 0.1,
    "bos_token_id": 50256,
    "embd_pdrop": 0.1,
    "eos_token_id": 50256,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "model_type": "gpt2",
    "n_ctx": 1024,
    "n_embd": 64,
    "n_head": 4,
    "n_layer": 4,
    "n_positions": 1024,
    "resid_pdrop": 0.1,
    "summary_activation": None,
    "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    "vocab_size": 97,
}
GPT_NEO = {
    "activation_function": "gelu_new",
    "architectures": ["GPTNeoForCausalLM"],
    "attention_dropout": 0,
    "attention_layers": ["global", "local"] * 2,
    "attention_types": [[["global", "local"], 2]],
    "bos_token_id": 50256,
    "embed_dropout": 0,
    "eos_token_id": 50256,
    "gradient_checkpointing": False,
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": None,
    "layer_norm_epsilon": 1e-05,
    "max_position_embeddings": 2048,
    "model_type": "gpt_neo",
    "num_heads": 4,
    "num_layers": 4,
    "resid_dropout": 0,
    "tokenizer_class": "GPT2Tokenizer",
    "use_cache": True,
    "vocab_size": 97,
    "window_size": 256,
}
PYTHIA = {
    "architectures": ["GPTNeoXForCausalLM"],
    "bos_token_id": 0,
    "eos_token_id": 0,
    "hidden_act": "gelu",
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 96,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 2048,
    "model_type": "gpt_neox",
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "rotary_emb_base": 10000,
    "rotary_pct": 0.25,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "use_cache": True,
    "use_parallel_residual": True,
    "vocab_size": 97,
}
LLAMA3 = {
    "factor": 32.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
LLAMA = SHARED | {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "pretraining_tp": 1,
    "rope_scaling": None,
    "rope_theta": 500000.0,
}
MISTRAL = SHARED | {
    "architectures": ["MistralForCausalLM"],
    "max_position_embeddings": 32768,
    "model_type": "mistral",
    "rope_theta": 10000.0,
    "sliding_window": 4096,
}
QWEN2 = SHARED | {
    "architectures": ["Qwen2ForCausalLM"],
    "max_position_embeddings": 32768,
    "max_window_layers": 24,
    "model_type": "qwen2",
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "use_mrope": False,
    "use_sliding_window": False,
}
QWEN3 = SHARED | {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "max_window_layers": 28,
    "model_type": "qwen3",
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
}
GEMMA2 = {k: v for k, v in SHARED.items() if k != "tie_word_embeddings"} | {
    "architectures": ["Gemma2ForCausalLM"],
    "attention_bias": False,
    "attn_logit_softcapping": 50.0,
    "cache_implementation": "hybrid",
    "eos_token_id": [1, 107],
    "final_logit_softcapping": 30.0,
    "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192,
    "model_type": "gemma2",
    "pad_token_id": 0,
    "query_pre_attn_scalar": 256,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "sliding_window_size": 4096,
}
GEMMA3 = {k: v for k, v in GEMMA2.items() if k not in ("hidden_act", "sliding_window_size")} | {
    "architectures": ["Gemma3ForCausalLM"],
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "max_position_embeddings": 32768,
    "model_type": "gemma3_text",
    "rope_local_base_freq": 10000,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": 512,
    "sliding_window_pattern": 2,
}
PHI3 = SHARED | {
    "architectures": ["Phi3ForCausalLM"],
    "attention_bias": False,
    "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"},
    "embd_pdrop": 0.0,
    "max_position_embeddings": 4096,
    "model_type": "phi3",
    "original_max_position_embeddings": 4096,
    "resid_pdrop": 0.0,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "sliding_window": 2047,
}
SMOLLM3 = SHARED | {
    "architectures": ["SmolLM3ForCausalLM"],
    "attention_bias": False,
    "layer_types": ["full_attention"] * 4,
    "max_position_embeddings": 65536,
    "max_window_layers": 28,
    "mlp_bias": False,
    "model_type": "smollm3",
    "no_rope_layer_interval": 4,
    "no_rope_layers": [1, 1, 1, 0],
    "pretraining_tp": 2,
    "rope_scaling": None,
    "rope_theta": 5000000.0,
    "sliding_window": None,
    "use_sliding_window": False,
}
OLMO2 = SHARED | {
    "architectures": ["Olmo2ForCausalLM"],
    "attention_bias": False,
    "max_position_embeddings": 4096,
    "model_type": "olmo2",
    "pad_token_id": 100277,
    "rope_scaling": None,
    "rope_theta": 500000,
}


def resaved(config: dict, **settings) -> dict:
    """As transformers 5 writes it: no old spellings of positions and dtype."""
    old = ("rope_theta", "rope_scaling", "rope_local_base_freq", "rotary_pct", "rotary_emb_base")
    old += ("torch_dtype", "sliding_window_pattern", "use_mrope", "cache_implementation")
    return {k: v for k, v in config.items() if k not in old} | {"dtype": "float32"} | settings


SLIDING, FULL = "sliding_attention", "full_attention"
ROPE = Rope(10000.0, 16)
LLAMA3_ROPE = Rope(500000.0, 16, Llama3Scaling(32.0, 1.0, 4.0, 8192))

PUBLISHED = {
    "gpt2": (GPT2, {"tied": True, "windows": (None,) * 4}),
    "distilgpt2": (GPT2 | {"_num_labels": 1, "id2label": {"0": "LABEL_0"}}, {}),
    "gpt2 fine-tuned in 2019": (GPT2 | {"num_labels": 1, "output_past": True}, {}),
    "gpt-neo-1.3B": (GPT_NEO, {"windows": (None, 256) * 2, "attention_scale": 1.0}),
    "pythia-70m": (PYTHIA, {"ropes": (Rope(10000.0, 4),) * 4, "activation": "gelu"}),
    "pythia, saved again": (
        resaved(
            PYTHIA,
            rope_parameters={
                "partial_rotary_factor": 0.25,
                "rope_theta": 10000,
                "rope_type": "default",
            },
        ),
        {"ropes": (Rope(10000.0, 4),) * 4},
    ),
    "gpt-neox-20b": (PYTHIA | {"hidden_act": "gelu_fast"}, {"activation": "gelu_tanh"}),
    "Llama-3.2-1B": (LLAMA | {"rope_scaling": LLAMA3}, {"ropes": (LLAMA3_ROPE,) * 4}),
    "Llama-3.2-1B, saved again": (
        resaved(LLAMA, rope_parameters=LLAMA3 | {"rope_theta": 500000.0}),
        {"ropes": (LLAMA3_ROPE,) * 4},
    ),
    "Llama-3.2-1B of unsloth": (LLAMA | {"unsloth_fixed": True, "unsloth_version": "2024.9"}, {}),
    "llama-7b of huggyllama": (LLAMA | {"max_sequence_length": 2048}, {}),
    "SmolLM2-135M": (
        LLAMA
        | {
            "is_llama_config": True,
            "rope_interleaved": False,
            "transformers.js_config": {"kv_cache_dtype": {"fp16": "float16"}},
        },
        {},
    ),
    "Mistral-7B-v0.1": (MISTRAL, {"windows": (4096,) * 4, "ropes": (ROPE,) * 4}),
    "Mistral-7B-v0.3": (MISTRAL | {"sliding_window": None}, {"windows": (None,) * 4}),
    "Qwen2.5-0.5B": (QWEN2, {"windows": (None,) * 4, "attention_bias": True, "tied": True}),
    "Qwen2.5-0.5B, saved again": (
        resaved(QWEN2, layer_types=[FULL] * 4, sliding_window=None),
        {"windows": (None,) * 4},
    ),
    "Qwen3-0.6B": (QWEN3, {"head_dim": 128, "attention_bias": False}),
    "gemma-2-9b": (GEMMA2, {"windows": (4096, None) * 2, "tied": True, "score_cap": 50.0}),
    "gemma-3-1b-it": (
        GEMMA3,
        {"windows": (512, None) * 2, "ropes": (Rope(1e4, 256), Rope(1e6, 256)) * 2},
    ),
    "gemma-3, saved again": (
        resaved(
            GEMMA3,
            layer_types=[SLIDING, FULL] * 2,
            rope_parameters={
                FULL: {"rope_theta": 1000000, "rope_type": "default"},
                SLIDING: {"rope_theta": 10000, "rope_type": "default"},
            },
            use_bidirectional_attention=False,
        ),
        {"windows": (512, None) * 2, "ropes": (Rope(1e4, 256), Rope(1e6, 256)) * 2},
    ),
    "Phi-3-mini-4k": (PHI3, {"windows": (2047,) * 4, "ropes": (ROPE,) * 4}),
    "SmolLM3-3B": (SMOLLM3, {"ropes": (Rope(5e6, 16),) * 3 + (None,)}),
    "OLMo-2-0425-1B": (OLMO2, {"query_key_norm": "projection"}),
}
"""Each with what must have been read of it."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_are_read(name: str):
    config, expected = PUBLISHED[name]
    architecture = read_architecture(config)
    assert {field: getattr(architecture, field) for field in expected} == expected


VARIANTS = {
    "gemma, as first published": SHARED
    | {"model_type": "gemma", "hidden_act": "gelu", "tie_word_embeddings": True},
    "windows in upper layers": QWEN2 | {"use_sliding_window": True, "max_window_layers": 2},
    "windows in all layers": QWEN3
    | {"use_sliding_window": True, "max_window_layers": 0, "sliding_window": 7},
    "windows of layers without positions": SMOLLM3
    | {"use_sliding_window": True, "sliding_window": 7, "layer_types": None},
    "linear": LLAMA | {"rope_scaling": {"type": "linear", "factor": 2.0}},
    "linear in layers that see everything": GEMMA3
    | {"rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    "a part of each head": PHI3 | {"partial_rotary_factor": 0.5},
    "absent": {k: LLAMA[k] for k in SHARED if k.endswith(("size", "layers", "heads"))}
    | {"model_type": "llama"},
}


@pytest.mark.parametrize("name", [*PUBLISHED, *VARIANTS])
def test_configs_mean_what_they_mean_in_transformers(name: str):
    """Its reader turns every spelling into its own; read here, that is the same architecture."""
    transformers = pytest.importorskip("transformers")
    config = VARIANTS[name] if name in VARIANTS else PUBLISHED[name][0]
    theirs = transformers.CONFIG_MAPPING[config["model_type"]].from_dict(copy.deepcopy(config))
    resaved = json.loads(theirs.to_json_string(use_diff=False))
    assert read_architecture(config) == read_architecture(resaved)


LONG = {"long_factor": [1.0] * 8, "short_factor": [1.0] * 8}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (PHI3 | {"rope_scaling": LONG | {"type": "longrope"}}, "rope_type to 'longrope'"),
        (QWEN3 | {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_type to 'yarn'"),
        (QWEN2 | {"dual_chunk_attention_config": {"chunk_size": 1}}, "dual_chunk_attention"),
        (QWEN3 | {"quantization_config": {"quant_method": "fp8"}}, "quantization_config"),
        (LLAMA | {"rope_interleaved": True}, "rope_interleaved"),
        (GEMMA2 | {"sliding_window_size": 512}, "sliding_window_size to 512"),
    ],
)
def test_published_variants_are_refused_by_what_makes_them_one(config: dict, message: str):
    with pytest.raises(ModelError, match=message):
        read_architecture(config)


@pytest.mark.parametrize("config", [GPT2, GPT_NEO, PYTHIA, LLAMA, QWEN3, GEMMA3])
def test_attention_to_what_follows_is_refused(config: dict):
    """False is what transformers makes an encoder of, not a setting that is switched off."""
    read_architecture(config | {"is_causal": True})
    with pytest.raises(ModelError, match="sets is_causal to False"):
        read_architecture(config | {"is_causal": False})
