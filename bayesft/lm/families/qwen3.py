"""Qwen 3: Qwen 2 with norms of each head's queries and keys (arXiv:2505.09388)."""

from __future__ import annotations

import dataclasses

from bayesft.lm.architecture import Architecture
from bayesft.lm.families.qwen2 import upper_windows
from bayesft.lm.families.rms import NAMES, rms_decoder, with_biases
from bayesft.lm.settings import Settings

HEAD_NORMS = dataclasses.replace(NAMES, query_norm="self_attn.q_norm", key_norm="self_attn.k_norm")


def qwen3(settings: Settings) -> Architecture:
    """Reads a config with `model_type` "qwen3"."""
    base = with_biases(rms_decoder(settings, max_positions=32768, head_dim=128), settings)
    windows = upper_windows(settings, base.num_layers)
    return dataclasses.replace(base, windows=windows, query_key_norm="head", names=HEAD_NORMS)
