"""GPT-Neo: GPT-2 with unscaled attention and a window in every other layer (TinyStories models)."""

from __future__ import annotations

import dataclasses

from bayesft.lm.activations import ACTIVATIONS
from bayesft.lm.architecture import Architecture
from bayesft.lm.families.gpt2 import NAMES as GPT2_NAMES
from bayesft.lm.settings import Settings

NAMES = dataclasses.replace(
    GPT2_NAMES,
    query_key_value=tuple(f"attn.attention.{part}_proj" for part in "qkv"),
    attention_output="attn.attention.out_proj",
    kernels_are_transposed=True,
    ignored=(r".*\.attn\.attention\.(masked_)?bias",),
)


def gpt_neo(settings: Settings) -> Architecture:
    """Reads a config with `model_type` "gpt_neo"."""
    width = settings.integer("hidden_size", 2048)
    num_layers = settings.integer("num_layers", 24)
    num_heads = settings.integer("num_heads", 16)
    window = settings.integer("window_size", 256)
    kinds = settings.repeated("attention_types", [[["global", "local"], 12]])
    settings.require("attention_layers", kinds)  # the same, written out
    return Architecture(
        vocab_size=settings.integer("vocab_size"),
        width=width,
        num_layers=num_layers,
        num_heads=num_heads,
        num_key_heads=num_heads,
        head_dim=width // num_heads,
        mlp_width=settings.integer("intermediate_size", 4 * width),
        max_positions=settings.integer("max_position_embeddings", 2048),
        norm="layer",
        norm_epsilon=settings.number("layer_norm_epsilon", 1e-5),
        activation=settings.choice("activation_function", ACTIVATIONS, "gelu_new"),
        gated=False,
        ropes=(None,) * num_layers,
        windows=settings.choices("attention_layers", {"global": None, "local": window}, kinds),
        attention_scale=1.0,
        output_bias=True,
        mlp_bias=True,
        tied=settings.flag("tie_word_embeddings", True),
        names=NAMES,
    )
