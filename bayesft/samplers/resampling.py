"""Resampling schemes: how often each particle of one prompt is copied.

A scheme is a function `(key, log_weights [N]) -> counts [N]` with Σ counts = N and
E[counts] = N·W, W the normalised weights; a particle of weight 0 has count 0. At least one weight
must be positive (samplers never resample a prompt whose particles are all dead).
"""

from __future__ import annotations

from typing import Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bayesft.base import Key


class Resampling(Protocol):
    """Counts of the copies of each particle, from log-weights in nats."""

    def __call__(self, key: Key, log_weights: Float[Array, " N"], /) -> Int[Array, " N"]: ...


def systematic(key: Key, log_weights: Float[Array, " N"]) -> Int[Array, " N"]:
    """Counts from N equally spaced points with one common random offset.

    counts_n = #{i : C_{n-1} ≤ (i + u)/N < C_n}, u ~ U[0, 1), C the CDF of the weights; so each
    count is ⌊N·W_n⌋ or ⌈N·W_n⌉. (Carpenter, Clifford and Fearnhead 1999.)
    """
    num_particles = log_weights.shape[0]
    upper = cumulative(log_weights)
    offset = jax.random.uniform(key, dtype=upper.dtype)
    below = jnp.ceil(num_particles * upper - offset)
    # N - u may round to N - 1: every point lies below a CDF entry of 1.
    below = jnp.where(upper == 1.0, num_particles, below).astype(jnp.int32)
    return jnp.diff(below, prepend=0)


def multinomial(key: Key, log_weights: Float[Array, " N"]) -> Int[Array, " N"]:
    """Counts of N independent draws by weight (Gordon, Salmond and Smith 1993)."""
    num_particles = log_weights.shape[0]
    upper = cumulative(log_weights)
    points = jax.random.uniform(key, (num_particles,), upper.dtype)
    chosen = jnp.searchsorted(upper, points, side="right")
    return jnp.zeros(num_particles, jnp.int32).at[chosen].add(1)


def cumulative(log_weights: Float[Array, " N"]) -> Float[Array, " N"]:
    """CDF of the normalised weights, such that rounding gives no mass to a weight of 0.

    A parallel sum may step up or down across a weight of 0: entries are taken over from the last
    positive weight, which makes them monotone. Dividing by the last entry makes it exactly 1.
    """
    weights = jnp.exp(log_weights - log_weights.max())
    upper = jax.lax.cummax(jnp.where(weights > 0, jnp.cumsum(weights), 0.0))
    return upper / upper[-1]


def stay_in_place(counts: Int[Array, " N"]) -> Int[Array, " N"]:
    """Ancestors [N] under which survivors keep their slot and copies fill the slots of the dead.

    Only dead rows of a model's state have to be overwritten then: ancestors[n] = n wherever
    counts[n] > 0. Needs Σ counts = N.
    """
    num_particles = counts.shape[0]
    slots = jnp.arange(num_particles, dtype=jnp.int32)
    survives = counts > 0
    num_copies = jnp.maximum(counts - 1, 0)
    parents = jnp.repeat(slots, num_copies, total_repeat_length=num_particles)
    nth_dead = jnp.cumsum(~survives) - 1
    return jnp.where(survives, slots, parents[jnp.maximum(nth_dead, 0)])
