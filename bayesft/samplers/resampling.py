"""Resampling schemes: how often each particle of one prompt is copied.

A scheme is a function `(key, log_weights [N]) -> counts [N]` with Σ counts = N and
E[counts] = N·W, W the normalised weights; a particle of weight 0 has count 0. At least one weight
must be positive (samplers never resample a prompt whose particles are all dead).
"""

from __future__ import annotations

from typing import Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bayesft.base import Key
from bayesft.draws import choose_by_weight, cumulative_weights, normalised_weights


class Resampling(Protocol):
    """Counts of the copies of each particle, from log-weights in nats."""

    def __call__(self, key: Key, log_weights: Float[Array, " N"], /) -> Int[Array, " N"]: ...


def systematic(key: Key, log_weights: Float[Array, " N"]) -> Int[Array, " N"]:
    """Counts from N equally spaced points with one common random offset.

    counts_n = #{i : C_{n-1} ≤ (i + u)/N < C_n}, u ~ U[0, 1), C the CDF of the weights; so each
    count is ⌊N·W_n⌋ or ⌈N·W_n⌉. (Carpenter, Clifford and Fearnhead 1999.)
    """
    num_particles = log_weights.shape[0]
    upper = cumulative_weights(log_weights)
    offset = jax.random.uniform(key, dtype=upper.dtype)
    below = jnp.ceil(num_particles * upper - offset)
    # N - u may round to N - 1: every point lies below a CDF entry of 1.
    below = jnp.where(upper == 1.0, num_particles, below).astype(jnp.int32)
    return jnp.diff(below, prepend=0)


def stratified(key: Key, log_weights: Float[Array, " N"]) -> Int[Array, " N"]:
    """Counts from one point in each of N equal strata: #{i : C_{n-1} ≤ (i + u_i)/N < C_n}.

    u_i ~ U[0, 1) are independent, where `systematic` has one for all. (Kitagawa 1996.)
    """
    num_particles = log_weights.shape[0]
    uniforms = jax.random.uniform(key, (num_particles,), log_weights.dtype)
    points = (jnp.arange(num_particles) + uniforms) / num_particles
    return _num_chosen(points, log_weights)


def multinomial(key: Key, log_weights: Float[Array, " N"]) -> Int[Array, " N"]:
    """Counts of N independent draws by weight (Gordon, Salmond and Smith 1993)."""
    points = jax.random.uniform(key, log_weights.shape, log_weights.dtype)
    return _num_chosen(points, log_weights)


def residual(key: Key, log_weights: Float[Array, " N"]) -> Int[Array, " N"]:
    """⌊N·W_n⌋ copies of each, and independent draws by what is left over for the others.

    (Liu and Chen 1998.)
    """
    num_particles = log_weights.shape[0]
    copies, rest = _whole_and_rest(log_weights)
    points = jax.random.uniform(key, (num_particles,), rest.dtype)
    drawn = jnp.arange(num_particles) < num_particles - copies.sum()
    return copies.at[choose_by_weight(points, jnp.log(rest))].add(drawn.astype(jnp.int32))


def ssp(key: Key, log_weights: Float[Array, " N"]) -> Int[Array, " N"]:
    """⌊N·W_n⌋ or ⌈N·W_n⌉ copies of each, by the Srinivasan sampling process.

    The left-over shares meet one after another: of two shares a and b, one takes what fits and is
    decided, the other goes on with the rest, with probabilities that keep their expectations.
    Unlike systematic resampling, counts are negatively associated, which makes SMC consistent for
    any order of the particles (Gerber, Chopin and Whiteley 2019).
    """
    copies, rest = _whole_and_rest(log_weights)
    uniforms = jax.random.uniform(key, rest.shape, rest.dtype)

    def meet(carry, newcomer):
        open_slot, share, extra = carry
        slot, other, uniform = newcomer
        both = share + other
        fits = both < 1.0
        # Either the sum fits into one of the two, or one of them is filled up to 1.
        goes_on = jnp.where(
            fits, share / jnp.maximum(both, 1e-30), (1 - share) / jnp.maximum(2 - both, 1e-30)
        )
        same = uniform < goes_on
        filled = jnp.where(same, slot, open_slot)
        extra = extra.at[filled].add(jnp.where(fits, 0, 1))
        share = jnp.where(fits, both, both - 1.0)
        return (jnp.where(same, open_slot, slot), share, extra), None

    slots = jnp.arange(rest.size, dtype=jnp.int32)
    start = (slots[0], rest[0], jnp.zeros_like(copies))
    (last, _, extra), _ = jax.lax.scan(meet, start, (slots[1:], rest[1:], uniforms[1:]))
    # The last share is 0 or 1 but for rounding, which must not revive a dead particle.
    last = jnp.where(log_weights[last] > -jnp.inf, last, jnp.argmax(log_weights))
    counts = copies + extra
    return counts.at[last].add(rest.size - counts.sum())


SCHEMES: tuple[Resampling, ...] = (systematic, stratified, multinomial, residual, ssp)
"""Every scheme: what the laws walk."""


def _num_chosen(points: Float[Array, " N"], log_weights: Float[Array, " N"]) -> Int[Array, " N"]:
    return jnp.zeros(points.shape, jnp.int32).at[choose_by_weight(points, log_weights)].add(1)


def _whole_and_rest(log_weights: Float[Array, " N"]) -> tuple[Int[Array, " N"], Float[Array, " N"]]:
    """⌊N·W⌋ and N·W − ⌊N·W⌋, where a hair below a whole number counts as whole."""
    expected = log_weights.size * normalised_weights(log_weights)
    copies = jnp.floor(expected + 4 * log_weights.size * jnp.finfo(expected.dtype).eps)
    rest = jnp.where(log_weights > -jnp.inf, jnp.maximum(expected - copies, 0.0), 0.0)
    return copies.astype(jnp.int32), rest


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


def draw_ancestors(
    scheme: Resampling, keys: Key, low: Bool[Array, " G"], log_weights: Float[Array, "G N"]
) -> Int[Array, "G N"]:
    """Ancestors of the particles of the groups that are low; those of the others are themselves."""
    slots = jax.lax.broadcasted_iota(jnp.int32, log_weights.shape, 1)
    known_weights = jnp.where(low[:, None], log_weights, 0.0)
    ancestors = jax.vmap(stay_in_place)(jax.vmap(scheme)(keys, known_weights))
    return jnp.where(low[:, None], ancestors, slots)
