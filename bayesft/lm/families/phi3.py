"""Phi 3 and 4: fused q-k-v and gate-up, a part of each head rotated (arXiv:2404.14219)."""

from __future__ import annotations

import dataclasses

from bayesft.lm.architecture import Architecture
from bayesft.lm.families.rms import NAMES as RMS_NAMES
from bayesft.lm.families.rms import rms_decoder
from bayesft.lm.settings import Settings

NAMES = dataclasses.replace(
    RMS_NAMES, query_key_value=("self_attn.qkv_proj",), up=("mlp.gate_up_proj",)
)


def phi3(settings: Settings) -> Architecture:
    """Reads a config with `model_type` "phi3"."""
    base = rms_decoder(settings, max_positions=4096, epsilon=1e-5, rotary_factor=1.0)
    settings.inert("original_max_position_embeddings")  # for scaled rotary positions alone
    window = settings.optional_integer("sliding_window", None)
    return dataclasses.replace(base, windows=(window,) * base.num_layers, names=NAMES)
