"""Frozen int8 weights under a LoRA guide, by Google's qwix (`pip install 'bayesft[int8]'`)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from bayesft.errors import GuideError, ModelError
from bayesft.lm.language_model import LanguageModel


def quantize(lm: LanguageModel) -> LanguageModel:
    """The model with the kernels of its layers in int8, one scale per output: W ≈ scale · int8.

    Each weight is off by at most half its scale, max_in |W| / 254. Embedding, head, norms and
    biases stay as they are. Kernels take a quarter of the memory of float32 and are multiplied out
    where they are used. The model is frozen: sample it, or train `bft.lm.lora(quantize(lm))`
    (Dettmers et al. 2023, arXiv:2305.14314). Raises ModelError where qwix is not installed.
    """
    if not isinstance(lm, LanguageModel):
        raise GuideError(
            f"quantize takes a language model, not a {type(lm).__name__}.",
            cause="what is trained is not frozen",
            remedy="quantize what bft.lm.load returns, then bft.lm.lora(…) of it",
        )
    try:
        import qwix  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ModelError(
            "int8 weights need qwix, which is not installed.",
            remedy="pip install 'bayesft[int8]'",
        ) from error

    def smaller(path: tuple[Any, ...], leaf: Array) -> Any:
        if path[-1] != jax.tree_util.DictKey("kernel"):
            return leaf
        return qwix.quantize(leaf, jnp.int8, channelwise_axes=(1,))

    return LanguageModel(jax.tree.map_with_path(smaller, lm.weights), lm.card)
