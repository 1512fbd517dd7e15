"""Evidence on whole sequences, brought into the weights of growing paths by increments.

At a stop, a path's log-weight changes by the difference between the value on its tokens so far and
the value it holds, so that the sum over stops telescopes to the value of the complete sequence. A
value of -inf on an unfinished path is held back (the previous value stays): a constraint that a
prefix does not meet may be met later. On a complete sequence it counts.

With delimiters, a prompt stops on its own, and an unfinished path is evaluated up to its last one.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from bayesft.base import HostEvidence, Potential, Prompt, Term
from bayesft.samplers.particles import Particles
from bayesft.sharding import join, split
from bayesft.target import Target

if TYPE_CHECKING:
    from bayesft.samplers.sequential import Schedule


def whole_terms(target: Target) -> tuple[Term, ...]:
    """The terms that are evaluated on whole sequences, in JAX or in Python."""
    return tuple(t for t in target.terms if isinstance(t.evidence, Potential | HostEvidence))


class Asked(NamedTuple):
    """What evidence on whole sequences is asked."""

    needed: Bool[Array, "P N"]
    """What is finished has its value, what is impossible needs none."""
    tokens: Int[Array, "P N T"]
    lengths: Int[Array, "P N"]


@jax.jit
def asked(target: Target, schedule: Schedule, particles: Particles) -> Asked:
    """The open particles, whole or up to where their prefix is looked at."""
    paths = particles.paths
    lengths, needed = paths.lengths, particles.open
    if schedule.delimiters is not None:
        lengths = jnp.where(paths.complete, lengths, paths.mark)
        needed &= particles.at_delimiters[:, None] & (lengths > 0)
    if not schedule.looks_ahead:
        needed &= paths.complete
    position = jax.lax.broadcasted_iota(jnp.int32, paths.tokens.shape, 2)
    beyond = position >= lengths[..., None]
    return Asked(needed, jnp.where(beyond, target.prior.eos[0], paths.tokens), lengths)


def on_host(
    target: Target, schedule: Schedule, particles: Particles
) -> dict[str, Float[np.ndarray, "P N"]]:
    """Unscaled values of the Python evidence by name, each called once for all particles asked.

    The values of the others are 0 and not used.
    """
    if not target.host_terms:
        return {}
    needed, tokens, lengths = map(np.asarray, asked(target, schedule, particles))
    values = {t.evidence.name: np.zeros(needed.shape, np.float32) for t in target.host_terms}
    if needed.any():
        ids = np.broadcast_to(np.asarray(target.xs.id)[:, None], needed.shape)
        found = target.evaluate_host(ids[needed], tokens[needed], lengths[needed])
        for name, rows in found.items():
            values[name][needed] = rows
    return values


def weigh(
    target: Target,
    schedule: Schedule,
    xs: Prompt,
    particles: Particles,
    host_values: dict[str, Float[Array, "P N"]],
) -> Particles:
    """The particles with whole-sequence evidence up to date in their weights."""
    paths, log_weights = particles.paths, particles.log_weights
    rows = asked(target, schedule, particles)
    whole = []
    for term, held in zip(whole_terms(target), paths.whole, strict=True):
        value = term.scaled(_value(term, xs, rows, host_values)).astype(held.dtype)
        counts = rows.needed & (paths.complete | (value != -jnp.inf))
        value = jnp.where(counts, value, held)
        # Where it does not count, both may be -inf: then nothing is subtracted.
        log_weights += jnp.where(counts, value - jnp.where(counts, held, 0.0), 0.0)
        whole.append(value)
    now_settled = rows.needed & paths.complete
    log_weights -= jnp.where(now_settled, paths.log_twist, 0.0)
    paths = dataclasses.replace(
        paths,
        whole=tuple(whole),
        settled=paths.settled | now_settled,
        log_twist=jnp.where(now_settled, 0.0, paths.log_twist),
    )
    weighed_at = jnp.where(rows.needed.any(-1), particles.t, particles.weighed_at)
    return particles.replace(paths=paths, log_weights=log_weights, weighed_at=weighed_at)


def _value(
    term: Term, xs: Prompt, rows: Asked, host_values: dict[str, Array]
) -> Float[Array, "P N"]:
    if not isinstance(term.evidence, Potential):
        return jnp.asarray(host_values[term.evidence.name])
    over_particles = jax.vmap(term.evidence.log_potential, (0, None, 0))
    tokens, lengths = split((rows.tokens, rows.lengths))
    return join(jax.vmap(over_particles)(tokens, xs, lengths))
