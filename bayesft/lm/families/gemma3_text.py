"""Gemma 3, the text model: five layers with windows, then one without (arXiv:2503.19786)."""

from __future__ import annotations

import dataclasses

from bayesft.lm.architecture import Architecture
from bayesft.lm.families.gemma import gemma_decoder
from bayesft.lm.families.gemma2 import NORMS_AROUND
from bayesft.lm.families.rope import contradiction, read_rope_group
from bayesft.lm.families.windows import read_windows
from bayesft.lm.rotary import Rope
from bayesft.lm.settings import Settings

THETA = 1e6
"""Of layers without a window, where nothing is said."""

NAMES = dataclasses.replace(
    NORMS_AROUND, query_norm="self_attn.q_norm", key_norm="self_attn.k_norm"
)


def gemma3_text(settings: Settings) -> Architecture:
    """Reads a config with `model_type` "gemma3_text"; layers with windows turn by their own θ."""
    groups = settings.nested("rope_parameters")
    local_theta = settings.number("rope_local_base_freq", 10000.0)
    base = gemma_decoder(settings, max_positions=131072, theta=THETA)
    whole, local = base.ropes[0] or Rope(THETA, base.head_dim), Rope(local_theta, base.head_dim)
    if groups is not None:
        sizes, said = (base.head_dim, base.max_positions), whole
        if (group := groups.nested("full_attention")) is not None:
            whole = read_rope_group(group, *sizes, said.theta)
        if said.scaling not in (None, whole.scaling) or said.theta not in (THETA, whole.theta):
            raise contradiction()
        local = read_rope_group(groups.nested("sliding_attention"), *sizes, local_theta)
        groups.finish()
    window = settings.optional_integer("sliding_window", 4096)
    pattern = settings.integer("sliding_window_pattern", 6)
    settings.inert("_sliding_window_pattern")  # the layer types that it made stand beside it
    windows = read_windows(settings, base.num_layers, window, lambda i: (i + 1) % pattern != 0)
    return dataclasses.replace(
        base,
        ropes=tuple(whole if window is None else local for window in windows),
        windows=windows,
        attention_scale=settings.number("query_pre_attn_scalar", 256) ** -0.5,
        query_key_norm="head",
        logit_cap=settings.optional_number("final_logit_softcapping", None),
        names=NAMES,
    )
