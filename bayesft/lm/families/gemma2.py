"""Gemma 2: norms on both sides, soft caps, a window in every other layer (arXiv:2408.00118)."""

from __future__ import annotations

import dataclasses

from bayesft.lm.architecture import Architecture
from bayesft.lm.families.gemma import gemma_decoder
from bayesft.lm.families.rms import NAMES
from bayesft.lm.families.windows import read_windows
from bayesft.lm.settings import Settings

NORMS_AROUND = dataclasses.replace(
    NAMES,
    attention_post_norm="post_attention_layernorm",
    mlp_norm="pre_feedforward_layernorm",
    mlp_post_norm="post_feedforward_layernorm",
)


def gemma2(settings: Settings) -> Architecture:
    """Reads a config with `model_type` "gemma2"."""
    base = gemma_decoder(settings, max_positions=8192)
    window = settings.optional_integer("sliding_window", 4096)
    settings.require("sliding_window_size", window)  # the same in some configs
    return dataclasses.replace(
        base,
        windows=read_windows(settings, base.num_layers, window, lambda layer: layer % 2 == 0),
        attention_scale=settings.number("query_pre_attn_scalar", 256) ** -0.5,
        score_cap=settings.optional_number("attn_logit_softcapping", 50.0),
        logit_cap=settings.optional_number("final_logit_softcapping", 30.0),
        names=NORMS_AROUND,
    )
