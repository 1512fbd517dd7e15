"""Mistral: Llama without biases, every layer with a sliding window (arXiv:2310.06825)."""

from __future__ import annotations

import dataclasses

from bayesft.lm.architecture import Architecture
from bayesft.lm.families.rms import rms_decoder
from bayesft.lm.settings import Settings


def mistral(settings: Settings) -> Architecture:
    """Reads a config with `model_type` "mistral"."""
    base = rms_decoder(settings, max_positions=131072)
    window = settings.optional_integer("sliding_window", 4096)
    return dataclasses.replace(base, windows=(window,) * base.num_layers)
