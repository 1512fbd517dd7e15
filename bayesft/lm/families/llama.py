"""Llama: RMS norms, rotary positions, grouped keys, a gated MLP (arXiv:2302.13971, 2407.21783)."""

from __future__ import annotations

import dataclasses

from bayesft.lm.architecture import Architecture
from bayesft.lm.families.rms import rms_decoder, with_biases
from bayesft.lm.settings import Settings


def llama(settings: Settings) -> Architecture:
    """Reads a config with `model_type` "llama"."""
    base = with_biases(rms_decoder(settings, max_positions=2048), settings)
    return dataclasses.replace(base, mlp_bias=settings.flag("mlp_bias", False))
