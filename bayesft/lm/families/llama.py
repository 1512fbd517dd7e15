"""Llama: RMS norms, rotary positions, grouped keys, a gated MLP (arXiv:2302.13971, 2407.21783)."""

from __future__ import annotations

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


def llama(settings: Settings) -> Architecture:
    """Reads a config with `model_type` "llama"."""
    width = settings.integer("hidden_size")
    num_heads = settings.integer("num_attention_heads")
    head_dim = settings.integer("head_dim", width // num_heads)
    max_positions = settings.integer("max_position_embeddings", 2048)
    attention_bias = settings.flag("attention_bias", False)
    return Architecture(
        vocab_size=settings.integer("vocab_size"),
        width=width,
        num_layers=settings.integer("num_hidden_layers"),
        num_heads=num_heads,
        num_key_heads=settings.integer("num_key_value_heads", num_heads),
        head_dim=head_dim,
        mlp_width=settings.integer("intermediate_size"),
        max_positions=max_positions,
        norm="rms",
        norm_epsilon=settings.number("rms_norm_eps", 1e-6),
        activation=settings.choice("hidden_act", ACTIVATIONS, "silu"),
        gated=True,
        rope=read_rope(settings, head_dim, max_positions),
        attention_bias=attention_bias,
        output_bias=attention_bias,
        mlp_bias=settings.flag("mlp_bias", False),
        tied=settings.flag("tie_word_embeddings", False),
        names=NAMES,
    )
