"""GPT-NeoX and Pythia: attention and MLP in parallel, a part of each head rotated (2204.06745)."""

from __future__ import annotations

from bayesft.lm.activations import ACTIVATIONS
from bayesft.lm.architecture import Architecture, Names
from bayesft.lm.families.rope import read_rope
from bayesft.lm.settings import Settings

NAMES = Names(
    base="gpt_neox",
    embedding="gpt_neox.embed_in",
    positions=None,
    layer="gpt_neox.layers.{}",
    attention_norm="input_layernorm",
    query_key_value=("attention.query_key_value",),
    attention_output="attention.dense",
    mlp_norm="post_attention_layernorm",
    up=("mlp.dense_h_to_4h",),
    down="mlp.dense_4h_to_h",
    final_norm="gpt_neox.final_layer_norm",
    head="embed_out",
    ignored=(r".*\.attention\.((masked_)?bias|rotary_emb\.inv_freq)",),
)


def gpt_neox(settings: Settings) -> Architecture:
    """Reads a config with `model_type` "gpt_neox"."""
    settings.alias("rotary_emb_base", to="rope_theta")
    settings.alias("rotary_pct", to="partial_rotary_factor")
    width = settings.integer("hidden_size")
    num_layers = settings.integer("num_hidden_layers")
    num_heads = settings.integer("num_attention_heads")
    head_dim = width // num_heads
    max_positions = settings.integer("max_position_embeddings", 2048)
    rope = read_rope(settings, head_dim, max_positions, rotary_factor=0.25)
    attention_bias = settings.flag("attention_bias", True)
    return Architecture(
        vocab_size=settings.integer("vocab_size"),
        width=width,
        num_layers=num_layers,
        num_heads=num_heads,
        num_key_heads=num_heads,
        head_dim=head_dim,
        mlp_width=settings.integer("intermediate_size", 24576),
        max_positions=max_positions,
        norm="layer",
        norm_epsilon=settings.number("layer_norm_eps", 1e-5),
        activation=settings.choice("hidden_act", ACTIVATIONS, "gelu"),
        gated=False,
        ropes=(rope,) * num_layers,
        windows=(None,) * num_layers,
        attention_scale=head_dim**-0.5,
        attention_bias=attention_bias,
        output_bias=attention_bias,
        mlp_bias=True,
        interleaved=True,
        parallel=settings.flag("use_parallel_residual", True),
        tied=settings.flag("tie_word_embeddings", False),
        names=NAMES,
    )
