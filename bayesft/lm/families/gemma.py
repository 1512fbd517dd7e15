"""Gemma: scaled embeddings, norms stored as distances from 1, a GELU gate (arXiv:2403.08295)."""

from __future__ import annotations

import dataclasses

from bayesft.lm.architecture import Architecture
from bayesft.lm.families.rms import rms_decoder, with_biases
from bayesft.lm.settings import Settings

# In the first configs "gelu" meant the tanh approximation that the models were trained with.
HIDDEN_ACT = {"gelu": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}


def gemma(settings: Settings) -> Architecture:
    """Reads a config with `model_type` "gemma"."""
    return gemma_decoder(settings, max_positions=8192)


def gemma_decoder(
    settings: Settings, *, max_positions: int, theta: float = 10000.0
) -> Architecture:
    """What the generations of Gemma share."""
    settings.choice("hidden_act", HIDDEN_ACT, "gelu_pytorch_tanh")
    settings.require("hidden_activation", "gelu_pytorch_tanh")
    base = rms_decoder(settings, max_positions=max_positions, head_dim=256, theta=theta, tied=True)
    return dataclasses.replace(
        with_biases(base, settings),
        activation="gelu_tanh",
        norm_offset=1.0,
        embedding_scale=base.width**0.5,
    )
