"""GPT-2: layer norms, learned positions, one fused query-key-value kernel, tied head."""

from __future__ import annotations

from bayesft.lm.activations import ACTIVATIONS
from bayesft.lm.architecture import Architecture, Names
from bayesft.lm.settings import Settings

NAMES = Names(
    base="transformer",
    embedding="transformer.wte",
    positions="transformer.wpe",
    layer="transformer.h.{}",
    attention_norm="ln_1",
    query_key_value=("attn.c_attn",),
    attention_output="attn.c_proj",
    mlp_norm="ln_2",
    up=("mlp.c_fc",),
    down="mlp.c_proj",
    final_norm="transformer.ln_f",
    kernels_are_transposed=False,
    ignored=(r".*\.attn\.(masked_)?bias",),
)


def gpt2(settings: Settings) -> Architecture:
    """Reads a config with `model_type` "gpt2"."""
    width = settings.integer("n_embd", 768)
    num_layers = settings.integer("n_layer", 12)
    num_heads = settings.integer("n_head", 12)
    head_dim = width // num_heads
    settings.require("scale_attn_weights", True)
    return Architecture(
        vocab_size=settings.integer("vocab_size"),
        width=width,
        num_layers=num_layers,
        num_heads=num_heads,
        num_key_heads=num_heads,
        head_dim=head_dim,
        mlp_width=settings.integer("n_inner", 4 * width),
        max_positions=settings.integer("n_positions", 1024),
        norm="layer",
        norm_epsilon=settings.number("layer_norm_epsilon", 1e-5),
        activation=settings.choice("activation_function", ACTIVATIONS, "gelu_new"),
        gated=False,
        ropes=(None,) * num_layers,
        windows=(None,) * num_layers,
        attention_scale=head_dim**-0.5,
        attention_bias=True,
        output_bias=True,
        mlp_bias=True,
        tied=settings.flag("tie_word_embeddings", True),
        names=NAMES,
    )
