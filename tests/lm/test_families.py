"""Readers of configs: absent, null and old settings mean what they mean in transformers."""

import dataclasses

import pytest

from bayesft.errors import ModelError
from bayesft.lm.architecture import Architecture
from bayesft.lm.families import FAMILIES, read_architecture
from bayesft.lm.rotary import LinearScaling, Rope

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
}
OWN_SIZES = {
    "gpt2": {"vocab_size": 64, "n_embd": 32, "n_head": 4, "n_layer": 8},
    "gpt_neo": {
        "vocab_size": 64,
        "hidden_size": 32,
        "num_heads": 4,
        "num_layers": 8,
        "attention_types": [[["global", "local"], 4]],
    },
    "gpt_neox": {k: v for k, v in SIZES.items() if k not in ("num_key_value_heads", "head_dim")},
}
"""Configs of the families that name their sizes otherwise."""


def read(model_type: str, **settings) -> Architecture:
    """The architecture of a small config; settings replace or add to it."""
    sizes = OWN_SIZES.get(model_type, SIZES)
    return read_architecture({"model_type": model_type} | sizes | settings)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_sizes_alone_are_a_config(model_type: str):
    architecture = read(model_type)
    assert architecture.num_layers == 8 and architecture.head_dim == 8
    assert hash(architecture) == hash(read(model_type))


# ---- windows ------------------------------------------------------------------------------------

SLIDING, FULL = "sliding_attention", "full_attention"


@pytest.mark.parametrize(
    ("model_type", "settings", "windows"),
    [
        ("llama", {}, [None] * 8),
        ("mistral", {}, [4096] * 8),
        ("mistral", {"sliding_window": None}, [None] * 8),
        ("mistral", {"sliding_window": 5}, [5] * 8),
        ("phi3", {}, [None] * 8),
        ("phi3", {"sliding_window": 5}, [5] * 8),
        ("qwen2", {"sliding_window": 5, "max_window_layers": 2}, [None] * 8),
        (
            "qwen2",
            {"sliding_window": 5, "max_window_layers": 6, "use_sliding_window": True},
            [None] * 6 + [5] * 2,
        ),
        (
            "qwen2",
            {"sliding_window": 5, "max_window_layers": 0, "use_sliding_window": True},
            [5] * 8,
        ),
        ("qwen3", {"use_sliding_window": True}, [None] * 8),  # layers from the 28th on
        (
            "qwen3",
            {"use_sliding_window": True, "layer_types": [SLIDING] + [FULL] * 7},
            [4096] + [None] * 7,
        ),
        ("gemma2", {}, [4096, None] * 4),
        ("gemma2", {"layer_types": [FULL] * 7 + [SLIDING]}, [None] * 7 + [4096]),
        ("gemma3_text", {}, [4096] * 5 + [None] + [4096] * 2),
        ("gemma3_text", {"sliding_window_pattern": 2, "sliding_window": 5}, [5, None] * 4),
        ("gpt_neo", {}, [None, 256] * 4),
        (
            "gpt_neo",
            {"attention_types": [[["local"], 2], [["global"], 6]], "window_size": 5},
            [5] * 2 + [None] * 6,
        ),
        ("smollm3", {"sliding_window": 5}, [None] * 8),
        ("smollm3", {"sliding_window": 5, "use_sliding_window": True}, [None, None, None, 5] * 2),
    ],
)
def test_windows(model_type: str, settings: dict, windows: list):
    assert list(read(model_type, **settings).windows) == windows


# ---- rotary positions ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_type", "settings", "rope"),
    [
        ("llama", {}, Rope(1e4, 8)),
        ("mistral", {"rope_theta": 1e6}, Rope(1e6, 8)),
        ("smollm3", {}, Rope(2e6, 8)),
        ("gpt_neox", {}, Rope(1e4, 2)),
        ("gpt_neox", {"rotary_emb_base": 100, "rotary_pct": 0.5}, Rope(100.0, 4)),
        ("gpt_neox", {"rope_parameters": {"rope_theta": 100, "partial_rotary_factor": 1.0}},
         Rope(100.0, 8)),
        ("phi3", {"partial_rotary_factor": 0.5}, Rope(1e4, 4)),
        ("phi3", {"rope_parameters": {"partial_rotary_factor": 0.75}}, Rope(1e4, 6)),
        ("gpt_neo", {}, None),
    ],
)  # fmt: skip
def test_rotary_positions(model_type: str, settings: dict, rope: Rope | None):
    assert read(model_type, **settings).ropes[0] == rope


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), True, "1e4"])
def test_what_is_no_positive_number_is_refused(value):
    with pytest.raises(ModelError, match="rope_theta"):
        read("llama", rope_theta=value)


LINEAR = {"rope_type": "linear", "factor": 8.0}


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [
        ("llama", {"rope_scaling": LINEAR, "rope_parameters": {"rope_type": "default"}}),
        ("llama", {"rope_scaling": LINEAR, "rope_parameters": LINEAR | {"rope_theta": 5e5}}),
        ("llama", {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}}),
        (
            "gemma3_text",
            {"rope_scaling": LINEAR, "rope_parameters": {FULL: LINEAR | {"factor": 2.0}}},
        ),
        ("gemma3_text", {"rope_theta": 1e6, "rope_parameters": {FULL: {"rope_theta": 5e5}}}),
        (
            "gemma3_text",
            {
                "rope_local_base_freq": 1e4,
                "rope_parameters": {"sliding_attention": {"rope_theta": 5e3}},
            },
        ),
    ],
)
def test_rotary_settings_that_contradict_each_other_are_refused(model_type: str, settings: dict):
    with pytest.raises(ModelError, match="contradicts itself about rotary"):
        read(model_type, **settings)


@pytest.mark.parametrize("empty", [None, {}])
def test_rotary_settings_may_stand_in_two_places_that_agree(empty):
    both = {"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 8}}
    for new in (LINEAR, LINEAR | {"rope_theta": 1e4}, empty):
        assert read("llama", **both, rope_parameters=new).ropes[0] == Rope(1e4, 8, LinearScaling(8))


LOCAL, GLOBAL = Rope(1e4, 8), Rope(1e6, 8, LinearScaling(8.0))


@pytest.mark.parametrize(
    "settings",
    [
        {"rope_scaling": {"rope_type": "linear", "factor": 8.0}},
        {
            "rope_theta": 1e6,
            "rope_local_base_freq": 1e4,
            "rope_scaling": {"type": "linear", "factor": 8.0},
        },
        {"rope_parameters": {FULL: {"rope_type": "linear", "factor": 8.0}}},
        {
            "rope_parameters": {
                FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                SLIDING: {"rope_type": "default", "rope_theta": 1e4},
            }
        },
    ],
)
def test_layers_of_gemma3_with_windows_turn_by_their_own_theta(settings: dict):
    ropes = read("gemma3_text", **settings).ropes
    assert ropes == (LOCAL,) * 5 + (GLOBAL,) + (LOCAL,) * 2


@pytest.mark.parametrize(
    ("settings", "rotated"),
    [
        ({}, [1, 1, 1, 0] * 2),
        ({"no_rope_layer_interval": 2}, [1, 0] * 4),
        ({"no_rope_layers": [0] * 7 + [1]}, [0] * 7 + [1]),
    ],
)
def test_layers_of_smollm3_without_positions(settings: dict, rotated: list[int]):
    assert [int(rope is not None) for rope in read("smollm3", **settings).ropes] == rotated


# ---- the rest -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_type", "settings", "expected"),
    [
        ("gemma2", {}, {"score_cap": 50.0, "logit_cap": 30.0, "attention_scale": 1 / 16}),
        (
            "gemma2",
            {"attn_logit_softcapping": None, "final_logit_softcapping": None},
            {"score_cap": None, "logit_cap": None},
        ),
        ("gemma3_text", {}, {"score_cap": None, "logit_cap": None, "attention_scale": 1 / 16}),
        ("gemma", {"hidden_act": "gelu"}, {"activation": "gelu_tanh", "tied": True}),
        ("gemma", {"head_dim": None}, {"head_dim": 256}),
        ("qwen3", {"head_dim": None}, {"head_dim": 128}),
        ("qwen2", {}, {"attention_bias": True, "output_bias": False, "tied": False}),
        ("olmo2", {"attention_bias": True}, {"attention_bias": True, "output_bias": True}),
        ("smollm3", {}, {"tied": True, "mlp_bias": False}),
        ("gpt_neox", {"use_parallel_residual": False}, {"parallel": False}),
        ("gpt_neo", {}, {"attention_scale": 1.0, "mlp_width": 128, "output_bias": True}),
    ],
)
def test_settings_that_are_absent_or_null(model_type: str, settings: dict, expected: dict):
    found = dataclasses.asdict(read(model_type, **settings))
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize("model_type", sorted(set(FAMILIES) - {"gpt2", "gpt_neo"}))
@pytest.mark.parametrize("kind", ["yarn", "dynamic", "longrope", "su"])
def test_scalings_of_rotary_positions_that_are_not_implemented(model_type: str, kind: str):
    with pytest.raises(ModelError, match=f"sets rope_type to '{kind}'"):
        read(model_type, rope_scaling={"type": kind, "factor": 2.0})


@pytest.mark.parametrize(
    ("model_type", "settings", "message"),
    [
        ("llama", {"partial_rotary_factor": 0.5}, "sets partial_rotary_factor to 0.5"),
        ("llama", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ("mistral", {"attention_bias": True}, "sets attention_bias to True"),
        ("mistral", {"layer_types": [SLIDING, FULL] * 4}, "sets layer_types"),
        ("qwen2", {"attention_bias": True}, "sets attention_bias to True"),
        ("qwen2", {"layer_types": [SLIDING] * 8}, "sets layer_types"),  # but no windows
        ("qwen2", {"layer_types": [FULL]}, "a list of 8 of full_attention"),
        ("qwen3", {"num_experts": 8}, "sets num_experts to 8"),
        ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma", {"hidden_act": "relu"}, "sets hidden_act to 'relu'"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma2", {"hidden_activation": "relu"}, "sets hidden_activation to 'relu'"),
        ("gemma2", {"layer_types": ["chunked_attention"] * 8}, "sets layer_types"),
        ("gemma2", {"sliding_window": None, "layer_types": [SLIDING] * 8}, "sets layer_types"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "sets attn_logit_softcapping"),
        ("gemma3_text", {"rope_parameters": {"rope_theta": 1e6}}, "sets rope_theta"),
        ("gpt_neox", {"rotary_pct": 0.25, "partial_rotary_factor": 0.5}, "sets rotary_pct to 0.25"),
        ("gpt_neo", {"attention_types": [[["global"], 3]]}, "8 layers and says how 3"),
        ("gpt_neo", {"attention_types": ["global"]}, "sets attention_types"),
        ("gpt_neo", {"attention_types": [[["dilated"], 8]]}, "'dilated'"),
        ("gpt_neo", {"attention_layers": ["global"] * 8}, "sets attention_layers"),
        ("smollm3", {"no_rope_layers": [2] * 8}, "sets no_rope_layers"),
        ("phi3", {"lm_head_bias": True}, "sets lm_head_bias"),
    ],
)
def test_variants_are_refused(model_type: str, settings: dict, message: str):
    with pytest.raises(ModelError, match=message):
        read(model_type, **settings)
