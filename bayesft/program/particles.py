"""Particles: paths that grow in step, and are resampled by weight on the way."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float, Int

from bayesft.base import Estimator, PyTree
from bayesft.program.control import plate
from bayesft.program.effects import draw, estimate_log_prob

type State = PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Steps:
    """Densities γ_1, …, γ_T of growing paths, and what proposes the next element of one.

    A path starts in the state `initial`. `propose(state, t)` is the distribution of element t < T,
    and `extend(state, element, t)` gives the state after it with the increment log γ_{t+1} − log
    γ_t in nats. γ_T is the density of whole paths; those before only say whom to resample.
    """

    num_steps: int = dataclasses.field(metadata={"static": True})
    initial: State
    propose: Callable[[State, Int[Array, ""]], Any] = dataclasses.field(metadata={"static": True})
    extend: Callable[[State, Any, Int[Array, ""]], tuple[State, Float[Array, ""]]] = (
        dataclasses.field(metadata={"static": True})
    )

    def log_density(self, path: PyTree) -> Float[Array, ""]:
        """log γ_T of a path, its elements stacked."""

        def step(state: State, inputs: tuple[PyTree, Array]) -> tuple[State, Array]:
            return self.extend(state, *inputs)

        times = jnp.arange(self.num_steps)
        return jax.lax.scan(step, self.initial, (path, times))[1].sum()


class Particles(NamedTuple):
    """N paths of equal length by their states [N, …], and the weights of their last elements."""

    states: State
    log_weights: Float[Array, " N"]


class Grown(NamedTuple):
    """One more element for each of N particles, and whom of those before each continues."""

    elements: PyTree
    ancestors: Int[Array, " N"]
    log_mean: Float[Array, ""]
    """log (1/N) Σ_n w_n: these add up to log Ẑ."""


def start(steps: Steps, num_particles: int) -> Particles:
    """N empty paths."""
    spread = lambda a: jnp.broadcast_to(a, (num_particles, *jnp.shape(a)))
    return Particles(jax.tree.map(spread, steps.initial), jnp.zeros(num_particles))


def grow(
    steps: Steps,
    particles: Particles,
    t: Int[Array, ""],
    selection: Estimator | None,
    held: PyTree = None,
) -> tuple[Particles, Grown]:
    """Resample by weight, then propose element t; with `held` it is that of slot 0, and its path.

    A part of a program: ancestors and elements are its choices.
    """
    size = len(particles.log_weights)
    dead = jnp.isneginf(particles.log_weights.max())  # then anyone continues, with weight 0
    weighted = dist.Categorical(logits=jnp.where(dead, 0.0, particles.log_weights))

    def slot(_: Array) -> tuple[Array, PyTree, Float[Array, ""]]:
        ancestor = draw("ancestor", weighted, selection)
        proposal = steps.propose(at(particles.states, ancestor), t)
        return ancestor, *draw("element", proposal, with_log_prob=True)

    num_drawn = size if held is None else size - 1
    ancestors, elements, log_proposals = plate(slot, num_drawn, name="particles")
    if held is not None:
        log_held = estimate_log_prob("held", steps.propose(at(particles.states, 0), t), held)
        lead = lambda one, others: jnp.concatenate([one[None], others])
        first = jnp.zeros((), ancestors.dtype), held, log_held
        drawn = ancestors, elements, log_proposals
        ancestors, elements, log_proposals = jax.tree.map(lead, first, drawn)
    extend = lambda state, element: steps.extend(state, element, t)
    states, increments = jax.vmap(extend)(at(particles.states, ancestors), elements)
    log_weights = increments - log_proposals
    log_mean = jax.nn.logsumexp(log_weights) - jnp.log(size)
    return Particles(states, log_weights), Grown(elements, ancestors, log_mean)


def at(tree: PyTree, index: Int[Array, "..."] | int) -> PyTree:
    """What every leaf holds at an index."""
    return jax.tree.map(lambda leaf: leaf[index], tree)
