"""Model families: each is one file with a config reader and the names of its weights.

| `model_type`  | what it has that Llama has not                                              |
|---------------|-----------------------------------------------------------------------------|
| `llama`       | RMS norms, rotary positions, a gated MLP; biases where the config says so   |
| `mistral`     | a sliding window                                                            |
| `qwen2`       | biases on q, k, v; windows in upper layers                                  |
| `qwen3`       | norms of each head's q and k; windows in upper layers                       |
| `smollm3`     | layers without positions                                                    |
| `phi3`        | fused q-k-v and gate-up; partly rotated heads; a window                     |
| `olmo2`       | norms after attention and MLP alone, and of all q and all k                 |
| `gemma`       | scaled embeddings, norms stored as distances from 1, a GELU gate            |
| `gemma2`      | as `gemma`; norms on both sides, soft caps, windows in every other layer    |
| `gemma3_text` | as `gemma2` without the caps; norms of q and k, a second θ for windows      |
| `gpt_neox`    | layer norms, attention beside the MLP, partly rotated heads, q-k-v per head |
| `gpt2`        | layer norms, learned positions                                              |
| `gpt_neo`     | as `gpt2`; unscaled attention, windows in every other layer                 |

Contract: a reader `Settings -> Architecture` takes every setting that changes the logits (what it
does not take is refused, never ignored), and the architecture's `Names` say where a checkpoint
keeps each part. A new family is one such file, one line in `FAMILIES`, and one golden folder; most
start from `rms_decoder`. Rotary positions are plain or scaled as "linear" or "llama3".
Law: logits agree with the reference implementation to 1e-4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bayesft.errors import ModelError
from bayesft.lm.architecture import Architecture
from bayesft.lm.families.gemma import gemma
from bayesft.lm.families.gemma2 import gemma2
from bayesft.lm.families.gemma3_text import gemma3_text
from bayesft.lm.families.gpt2 import gpt2
from bayesft.lm.families.gpt_neo import gpt_neo
from bayesft.lm.families.gpt_neox import gpt_neox
from bayesft.lm.families.llama import llama
from bayesft.lm.families.mistral import mistral
from bayesft.lm.families.olmo2 import olmo2
from bayesft.lm.families.phi3 import phi3
from bayesft.lm.families.qwen2 import qwen2
from bayesft.lm.families.qwen3 import qwen3
from bayesft.lm.families.smollm3 import smollm3
from bayesft.lm.settings import Settings

FAMILIES: Mapping[str, Callable[[Settings], Architecture]] = {
    "gemma": gemma,
    "gemma2": gemma2,
    "gemma3_text": gemma3_text,
    "gpt2": gpt2,
    "gpt_neo": gpt_neo,
    "gpt_neox": gpt_neox,
    "llama": llama,
    "mistral": mistral,
    "olmo2": olmo2,
    "phi3": phi3,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "smollm3": smollm3,
}
"""Readers by `model_type`."""


def read_architecture(config: Mapping[str, Any]) -> Architecture:
    """The architecture that a Hugging Face config describes; raises ModelError on any doubt."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise ModelError(
            f"config.json names the model_type {model_type!r}, which bayesft does not know.",
            remedy=f"use a model of one of the supported types: {', '.join(sorted(FAMILIES))}",
        )
    settings = Settings(config)
    settings.require("is_causal", True)  # transformers reads it for every family
    architecture = FAMILIES[model_type](settings)
    settings.finish()
    if architecture.num_heads % architecture.num_key_heads:
        raise ModelError(
            f"config.json has {architecture.num_heads} query heads and "
            f"{architecture.num_key_heads} key heads; the first must be a multiple of the second."
        )
    if len(architecture.windows) != architecture.num_layers:
        raise ModelError(
            f"config.json has {architecture.num_layers} layers and says how "
            f"{len(architecture.windows)} of them attend."
        )
    return architecture
