"""OLMo 2: norms after attention and MLP, and of all queries and all keys (arXiv:2501.00656)."""

from __future__ import annotations

import dataclasses

from bayesft.lm.architecture import Architecture
from bayesft.lm.families.rms import NAMES as RMS_NAMES
from bayesft.lm.families.rms import rms_decoder, with_biases
from bayesft.lm.settings import Settings

NAMES = dataclasses.replace(
    RMS_NAMES,
    attention_norm=None,
    attention_post_norm="post_attention_layernorm",
    mlp_norm=None,
    mlp_post_norm="post_feedforward_layernorm",
    query_norm="self_attn.q_norm",
    key_norm="self_attn.k_norm",
)


def olmo2(settings: Settings) -> Architecture:
    """Reads a config with `model_type` "olmo2"."""
    base = with_biases(rms_decoder(settings, max_positions=2048, epsilon=1e-5), settings)
    return dataclasses.replace(base, query_key_norm="projection", names=NAMES)
