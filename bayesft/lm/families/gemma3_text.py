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

THETA, LOCAL_THETA = 1e6, 1e4
"""Of layers without a window and with one, where nothing is said."""

NAMES = dataclasses.replace(
    NORMS_AROUND, query_norm="self_attn.q_norm", key_norm="self_attn.k_norm"
)


def gemma3_text(settings: Settings) -> Architecture:
    """Reads a config with `model_type` "gemma3_text"; layers with windows turn by their own θ."""
    groups = settings.nested("rope_parameters")
    own_theta = settings.optional_number("rope_theta", None)
    own_local = settings.optional_number("rope_local_base_freq", None)
    base = gemma_decoder(settings, max_positions=131072, theta=own_theta or THETA)
    whole = base.ropes[0] or Rope(THETA, base.head_dim)
    local = Rope(own_local or LOCAL_THETA, base.head_dim)
    if groups is not None:
        sizes, own_scaling = (base.head_dim, base.max_positions), whole.scaling
        if (group := groups.nested("full_attention")) is not None:
            whole = read_rope_group(group, *sizes, whole.theta)
        local = read_rope_group(groups.nested("sliding_attention"), *sizes, local.theta)
        groups.finish()
        own = own_scaling, own_theta, own_local
        found = whole.scaling, whole.theta, local.theta
        if any(said not in (None, read) for said, read in zip(own, found, strict=True)):
            raise contradiction()
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
