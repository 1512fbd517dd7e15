"""Qwen 2 and 2.5: Llama with biases on q, k and v; windows in upper layers (arXiv:2407.10671)."""

from __future__ import annotations

import dataclasses

from bayesft.lm.architecture import Architecture
from bayesft.lm.families.rms import rms_decoder
from bayesft.lm.families.windows import Windows, read_windows
from bayesft.lm.settings import Settings


def qwen2(settings: Settings) -> Architecture:
    """Reads a config with `model_type` "qwen2"."""
    base = rms_decoder(settings, max_positions=32768)
    windows = upper_windows(settings, base.num_layers)
    return dataclasses.replace(base, windows=windows, attention_bias=True)


def upper_windows(settings: Settings, num_layers: int) -> Windows:
    """Windows from layer `max_window_layers` on, where `use_sliding_window` switches them on."""
    used = settings.flag("use_sliding_window", False)
    window = settings.optional_integer("sliding_window", 4096)
    first = settings.integer("max_window_layers", 28, least=0)
    return read_windows(settings, num_layers, window if used else None, lambda i: i >= first)
