"""SmolLM 3: Llama with no positions in every fourth layer (NoPE, arXiv:2501.18795)."""

from __future__ import annotations

import dataclasses

from bayesft.lm.architecture import Architecture
from bayesft.lm.families.rms import rms_decoder, with_biases
from bayesft.lm.families.windows import read_windows
from bayesft.lm.settings import Settings


def smollm3(settings: Settings) -> Architecture:
    """Reads a config with `model_type` "smollm3"; windows, if any, are of the unrotated layers."""
    base = rms_decoder(settings, max_positions=32768, theta=2e6, tied=True)
    every = settings.integer("no_rope_layer_interval", 4)
    pattern = [int((layer + 1) % every != 0) for layer in range(base.num_layers)]
    ropes = settings.choices("no_rope_layers", {1: base.ropes[0], 0: None}, pattern)
    used = settings.flag("use_sliding_window", False)
    window = settings.optional_integer("sliding_window", None)
    settings.inert("max_window_layers")
    return dataclasses.replace(
        with_biases(base, settings),
        ropes=ropes,
        windows=read_windows(
            settings, base.num_layers, window, lambda layer: used and ropes[layer] is None
        ),
        mlp_bias=settings.flag("mlp_bias", False),
    )
