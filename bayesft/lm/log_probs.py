"""Log-probabilities of given tokens from hidden states, in memory that does not grow with T · V."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from bayesft.lm.activations import soft_cap

CHUNK = 4096
"""Rows of the head per chunk; smaller vocabularies are not chunked."""


def log_probs_of(
    tokens: Int[Array, " T"],
    hidden: Float[Array, "T D"],
    rows: Float[Array, "V D"],
    cap: float | None = None,
    chunk: int = CHUNK,
) -> Float[Array, " T"]:
    """log softmax(hidden rowsᵀ)[tokens] in nats: hidden · rows[tokens] − log Σ_v exp(hidden · v).

    With a cap, every product is soft-capped first (`soft_cap`).
    The sum runs over chunks of the vocabulary whose logits are recomputed by the backward pass.
    That is left to autodiff and `jax.checkpoint`: a custom_vjp would return one head gradient
    [V, D] for every lane that it is vmapped over, where autodiff sums over lanes in its products.
    """
    own = jnp.sum(hidden * rows.at[tokens].get(mode="clip"), axis=-1, dtype=jnp.float32)
    return soft_cap(own, cap) - log_normaliser(hidden, rows, cap, chunk)


def log_normaliser(
    hidden: Float[Array, "T D"],
    rows: Float[Array, "V D"],
    cap: float | None = None,
    chunk: int = CHUNK,
) -> Float[Array, " T"]:
    """log Σ_v exp(hidden · rows[v]) in float32."""
    if rows.shape[0] <= chunk:
        return _log_sum(hidden, rows, cap)
    log_sum = jax.checkpoint(functools.partial(_log_sum, cap=cap))
    whole = rows.shape[0] // chunk * chunk
    chunks = rows[:whole].reshape(-1, chunk, rows.shape[1])
    parts = lax.map(lambda part: log_sum(hidden, part), chunks)
    if whole < rows.shape[0]:
        parts = jnp.concatenate([parts, log_sum(hidden, rows[whole:])[None]])
    return jax.nn.logsumexp(parts, axis=0)


def _log_sum(hidden: Array, rows: Array, cap: float | None) -> Array:
    logits = jnp.matmul(hidden, rows.T, preferred_element_type=jnp.float32)
    return jax.nn.logsumexp(soft_cap(logits, cap), axis=-1)
