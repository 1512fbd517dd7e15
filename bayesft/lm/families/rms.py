"""What most families share: RMS norms, rotary positions in every layer, a gated MLP, no biases."""

from __future__ import annotations

import dataclasses

from bayesft.lm.activations import ACTIVATIONS
from bayesft.lm.architecture import Architecture, Names
from bayesft.lm.families.rope import read_rope
from bayesft.lm.settings import Settings

NAMES = Names(
    base="model",
    embedding="model.embed_tokens",
    positions=None,
    layer="model.layers.{}",
    attention_norm="input_layernorm",
    query_key_value=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    attention_output="self_attn.o_proj",
    mlp_norm="post_attention_layernorm",
    up=("mlp.gate_proj", "mlp.up_proj"),
    down="mlp.down_proj",
    final_norm="model.norm",
    ignored=(r".*\.rotary_emb\.inv_freq",),
)


def rms_decoder(
    settings: Settings,
    *,
    max_positions: int,
    head_dim: int | None = None,
    epsilon: float = 1e-6,
    theta: float = 10000.0,
    rotary_factor: float | None = None,
    tied: bool = False,
) -> Architecture:
    """Reads the sizes of such a model; arguments are what transformers takes for absent settings.

    `rotary_factor` is given for families of which a part of each head may be rotated.
    """
    width = settings.integer("hidden_size")
    num_layers = settings.integer("num_hidden_layers")
    num_heads = settings.integer("num_attention_heads")
    head_dim = settings.integer("head_dim", head_dim or width // num_heads)
    max_positions = settings.integer("max_position_embeddings", max_positions)
    rope = read_rope(settings, head_dim, max_positions, theta, rotary_factor)
    return Architecture(
        vocab_size=settings.integer("vocab_size"),
        width=width,
        num_layers=num_layers,
        num_heads=num_heads,
        num_key_heads=settings.integer("num_key_value_heads", num_heads),
        head_dim=head_dim,
        mlp_width=settings.integer("intermediate_size"),
        max_positions=max_positions,
        norm="rms",
        norm_epsilon=settings.number("rms_norm_eps", epsilon),
        activation=settings.choice("hidden_act", ACTIVATIONS, "silu"),
        gated=True,
        ropes=(rope,) * num_layers,
        windows=(None,) * num_layers,
        attention_scale=head_dim**-0.5,
        tied=settings.flag("tie_word_embeddings", tied),
        names=NAMES,
    )


def with_biases(architecture: Architecture, settings: Settings) -> Architecture:
    """The same with biases on the maps around attention where `attention_bias` says so."""
    bias = settings.flag("attention_bias", False)
    return dataclasses.replace(architecture, attention_bias=bias, output_bias=bias)
