"""Evidence on whole sequences, brought into the weights of growing paths by increments.

At a stop, a path's log-weight changes by the difference between the value on its tokens so far and
the value it holds, so that the sum over stops telescopes to the value of the complete sequence. A
value of -inf on an unfinished path is held back (the previous value stays): a constraint that a
prefix does not meet may be met later. On a complete sequence it counts.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bayesft.base import HostEvidence, Potential, Prompt, Term
from bayesft.samplers.particles import Particles
from bayesft.target import Target


def whole_terms(target: Target) -> tuple[Term, ...]:
    """The terms that are evaluated on whole sequences, in JAX or in Python."""
    return tuple(t for t in target.terms if isinstance(t.evidence, Potential | HostEvidence))


def on_host(target: Target, particles: Particles) -> dict[str, Float[np.ndarray, "P N"]]:
    """Unscaled values of the Python evidence by name, each called once for all open particles.

    The others are not asked: what is finished has its value, what is impossible needs none. Their
    values are 0 and not used.
    """
    if not target.host_terms:
        return {}
    paths = particles.paths
    needed = np.asarray(particles.open)
    values = {t.evidence.name: np.zeros(needed.shape, np.float32) for t in target.host_terms}
    if needed.any():
        ids = np.broadcast_to(np.asarray(target.xs.id)[:, None], needed.shape)
        tokens, lengths = np.asarray(paths.tokens), np.asarray(paths.lengths)
        found = target.evaluate_host(ids[needed], tokens[needed], lengths[needed])
        for name, rows in found.items():
            values[name][needed] = rows
    return values


def weigh(
    target: Target,
    xs: Prompt,
    particles: Particles,
    host_values: dict[str, Float[Array, "P N"]],
) -> Particles:
    """The particles with whole-sequence evidence up to date in their weights."""
    paths, log_weights = particles.paths, particles.log_weights
    whole = []
    for term, held in zip(whole_terms(target), paths.whole, strict=True):
        value = term.scaled(_value(term, xs, particles, host_values)).astype(held.dtype)
        counts = particles.open & (paths.complete | (value != -jnp.inf))
        value = jnp.where(counts, value, held)
        # Where it does not count, both may be -inf: then nothing is subtracted.
        log_weights += jnp.where(counts, value - jnp.where(counts, held, 0.0), 0.0)
        whole.append(value)
    paths = dataclasses.replace(paths, whole=tuple(whole), settled=paths.complete)
    return particles.replace(paths=paths, log_weights=log_weights)


def _value(
    term: Term, xs: Prompt, particles: Particles, host_values: dict[str, Array]
) -> Float[Array, "P N"]:
    if not isinstance(term.evidence, Potential):
        return jnp.asarray(host_values[term.evidence.name])
    over_particles = jax.vmap(term.evidence.log_potential, (0, None, 0))
    return jax.vmap(over_particles)(particles.paths.tokens, xs, particles.paths.lengths)
