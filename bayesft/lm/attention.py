"""Attention of a few new positions over a shared prompt and over each particle's own tokens."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

MASKED = -1e30
"""Score of a masked position: finite, so that a fully masked row has no NaN."""


@dataclasses.dataclass(frozen=True)
class Shared:
    """Keys and values of a prompt, without a particle axis, and which of them are real."""

    keys: Float[Array, "P heads S head_dim"]
    values: Float[Array, "P heads S head_dim"]
    real: Bool[Array, "P S"]


def attend(
    query: Float[Array, "P N Q heads_q head_dim"],
    keys: Float[Array, "P N heads T head_dim"],
    values: Float[Array, "P N heads T head_dim"],
    visible: Bool[Array, "Q T"],
    shared: Shared | None = None,
) -> Float[Array, "P N Q heads_q head_dim"]:
    """softmax(q kᵀ) v over the own positions that are visible and the prompt's real ones.

    The query is scaled already. One softmax runs over both parts without putting them together,
    so that the prompt is read once for all of its particles, as one large product.
    """
    num_prompts, num_particles, num_queries, num_heads, head_dim = query.shape
    heads = keys.shape[2]
    group = num_heads // heads
    grouped = query.reshape(num_prompts, num_particles, num_queries, heads, group, head_dim)
    grouped = grouped.transpose(0, 1, 3, 4, 2, 5)  # P N heads group Q head_dim
    per_particle = (num_prompts, num_particles, heads, group * num_queries)
    own_query = grouped.reshape(*per_particle, head_dim)
    own = _scores(own_query, keys).reshape(*per_particle[:3], group, num_queries, keys.shape[3])
    own = jnp.where(visible[None, None, None, None], own, MASKED)
    own = own.reshape(*per_particle, keys.shape[3])
    top = own.max(-1, keepdims=True)

    if shared is not None:
        per_prompt = (num_prompts, heads, num_particles * group * num_queries)
        prompt_query = own_query.swapaxes(1, 2).reshape(*per_prompt, head_dim)
        prompt = _scores(prompt_query, shared.keys)
        prompt = jnp.where(shared.real[:, None, None], prompt, MASKED)
        prompt_top = _to_particles(prompt.max(-1, keepdims=True), per_particle)
        top = jnp.maximum(top, prompt_top)
    top = lax.stop_gradient(top)

    own = jnp.exp(own - top)
    total = own.sum(-1, keepdims=True)
    mixed = own.astype(values.dtype) @ values
    if shared is not None:
        prompt = jnp.exp(prompt - top.swapaxes(1, 2).reshape(*per_prompt, 1))
        total = total + _to_particles(prompt.sum(-1, keepdims=True), per_particle)
        mixed = mixed + _to_particles(prompt.astype(values.dtype) @ shared.values, per_particle)
    mixed = (mixed / total).astype(query.dtype)
    mixed = mixed.reshape(*per_particle[:3], group, num_queries, head_dim)
    return mixed.transpose(0, 1, 4, 2, 3, 5).reshape(query.shape)


def _scores(query: Array, keys: Array) -> Float[Array, "*batch rows positions"]:
    """q kᵀ in float32."""
    return jnp.matmul(query, keys.swapaxes(-1, -2), preferred_element_type=jnp.float32)


def _to_particles(x: Array, per_particle: tuple[int, ...]) -> Array:
    """[P, heads, N · rows, d] as [P, N, heads, rows, d]."""
    prompts, particles, heads, rows = per_particle
    return x.reshape(prompts, heads, particles, rows, x.shape[-1]).swapaxes(1, 2)


def causal(num_positions: int) -> Bool[Array, "T T"]:
    """Which positions each position sees: itself and those before."""
    return jax.lax.broadcasted_iota(jnp.int32, (num_positions, num_positions), 0) >= (
        jax.lax.broadcasted_iota(jnp.int32, (num_positions, num_positions), 1)
    )
