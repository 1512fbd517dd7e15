"""Particles drawn token by token: the machinery that importance sampling and SMC share.

Everything between two host calls is one jitted loop. The inner loop advances the models by one
token and leaves when any prompt is to be resampled; the outer body resamples only those prompts,
ahead of the next forward pass, so that model states move only when a resampling happens.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bayesft.base import Key, PrefixEvidence, Prompt, PyTree, is_eos
from bayesft.draws import effective_sample_size, log_mean_exp
from bayesft.samplers import whole
from bayesft.samplers.particles import Particles, Paths
from bayesft.samplers.proposers import Proposer
from bayesft.samplers.resampling import Resampling, stay_in_place
from bayesft.target import Target


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ResamplingRule:
    """Resample a prompt when its ESS falls below `threshold` · N."""

    scheme: Resampling = dataclasses.field(metadata={"static": True})
    threshold: float


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Randomness:
    """The random numbers of a run by position, made ahead, so that token steps need not."""

    uniforms: Float[Array, "T P N"]
    """One per token."""
    keys: Key
    """[P]; t is folded in for the uniforms of token t, T + t for the resampling ahead of it."""


@partial(jax.jit, static_argnames=("num_particles", "num_tokens"))
def randomness(ids: Int[Array, " P"], key: Key, num_particles: int, num_tokens: int) -> Randomness:
    """The same for a prompt whichever others share its batch."""

    def uniforms(t: Array, key: Key) -> Array:
        return jax.random.uniform(jax.random.fold_in(key, t), (num_particles,))

    keys = jax.vmap(lambda prompt_id: jax.random.fold_in(key, prompt_id))(ids)
    times = jnp.arange(num_tokens, dtype=jnp.int32)
    return Randomness(jax.vmap(lambda t: jax.vmap(partial(uniforms, t))(keys))(times), keys)


@jax.jit
def start(
    target: Target,
    proposer: Proposer,
    rule: ResamplingRule | None,
    xs: Prompt,
    random: Randomness,
) -> Particles:
    """Particles with their first token."""
    num_tokens, *shape = random.uniforms.shape
    num_particles = shape[1]
    models, logits = proposer.start(xs, num_particles, num_tokens)
    zeros, never = jnp.zeros(shape), jnp.zeros(shape, bool)
    paths = Paths(
        tokens=jnp.full((*shape, num_tokens), target.prior.eos[0], jnp.int32),
        lengths=jnp.zeros(shape, jnp.int32),
        done=never,
        log_prior=zeros,
        log_prefix=zeros,
        prefix_states=tuple(
            jax.tree.map(partial(_spread, num_particles), jax.vmap(evidence.init)(xs))
            for _, evidence in _prefix_terms(target)
        ),
        whole=tuple(zeros for _ in whole.whole_terms(target)),
        settled=never,
    )
    slots = jnp.arange(num_particles, dtype=jnp.int32)
    particles = Particles(
        t=jnp.int32(0),
        models=models,
        paths=paths,
        log_weights=zeros,
        log_z=zeros[:, 0],
        low=never[:, 0],
        num_resamples=jnp.zeros(shape[0], jnp.int32),
        ancestors=jnp.broadcast_to(slots, (num_tokens, *shape)) if rule else None,
    )
    return _extend(target, proposer, rule, random, particles, logits)


def _advance(
    target: Target,
    proposer: Proposer,
    rule: ResamplingRule | None,
    random: Randomness,
    particles: Particles,
    stop: int | Int[Array, ""],
) -> Particles:
    """The particles with `stop` tokens each, or fewer where no prompt is active before."""

    def going(particles: Particles) -> Array:
        return (particles.t < stop) & particles.active.any()

    def one_token(particles: Particles) -> Particles:
        last = jnp.maximum(particles.t - 1, 0)
        token = jax.lax.dynamic_index_in_dim(particles.paths.tokens, last, 2, keepdims=False)
        models, logits = proposer.advance(particles.models, token)
        return _extend(target, proposer, rule, random, particles.replace(models=models), logits)

    if rule is None:
        return jax.lax.while_loop(going, one_token, particles)

    def body(particles: Particles) -> Particles:
        # A loop of at most one turn, not a `cond`: a loop leaves the models' state in place.
        particles = jax.lax.while_loop(
            lambda p: p.low.any(), partial(_resample, proposer, rule, random), particles
        )
        return jax.lax.while_loop(lambda p: going(p) & ~p.low.any(), one_token, particles)

    return jax.lax.while_loop(going, body, particles)


def _weigh(
    target: Target,
    rule: ResamplingRule | None,
    xs: Prompt,
    particles: Particles,
    host_values: dict[str, Float[Array, "P N"]],
) -> Particles:
    """The particles with evidence on whole sequences in their weights."""
    return _mark_low(rule, whole.weigh(target, xs, particles, host_values))


advance, weigh = jax.jit(_advance), jax.jit(_weigh)
# The same for a caller that owns the particles: no second copy of the models' state.
advance_in_place = jax.jit(_advance, donate_argnames="particles")
weigh_in_place = jax.jit(_weigh, donate_argnames="particles")


def _prefix_terms(target: Target) -> list[tuple[int, PrefixEvidence]]:
    """Index and evidence of the terms that add an increment at every token."""
    terms = enumerate(target.terms)
    return [(i, t.evidence) for i, t in terms if isinstance(t.evidence, PrefixEvidence)]


def _spread(num_particles: int, a: Array) -> Array:
    return jnp.broadcast_to(a[:, None], (a.shape[0], num_particles, *a.shape[1:]))


def _extend(
    target: Target,
    proposer: Proposer,
    rule: ResamplingRule | None,
    random: Randomness,
    particles: Particles,
    logits: PyTree,
) -> Particles:
    """Draw the token at position t and account for it in the weights."""
    t, paths, horizon = particles.t, particles.paths, target.horizon
    ended_before = paths.done
    token, log_prior, log_ratio = proposer.choose(random.uniforms[t], logits, t, horizon)
    token = jnp.where(ended_before, target.prior.eos[0], token)
    done = ended_before | is_eos(token, target.prior.eos)
    if horizon.eos_policy == "condition":
        cut = ~done & (t == horizon.max_new_tokens - 1)
        log_prior = jnp.where(cut, -jnp.inf, log_prior)
        log_ratio = jnp.where(cut, -jnp.inf, log_ratio)
    prefix_states, increment = _prefix_step(target, paths.prefix_states, token)

    def add(total: Array, change: Array) -> Array:
        """Nothing is added after the end, nor to what is impossible already."""
        return jnp.where(ended_before | (total == -jnp.inf), total, total + change)

    paths = dataclasses.replace(
        paths,
        tokens=jax.lax.dynamic_update_index_in_dim(paths.tokens, token, t, 2),
        lengths=paths.lengths + ~paths.done,
        done=done,
        log_prior=add(paths.log_prior, log_prior),
        log_prefix=add(paths.log_prefix, increment),
        prefix_states=prefix_states,
    )
    log_weights = add(particles.log_weights, log_ratio + increment)
    return _mark_low(rule, particles.replace(t=t + 1, paths=paths, log_weights=log_weights))


def _prefix_step(
    target: Target, states: tuple[PyTree, ...], token: Int[Array, "P N"]
) -> tuple[tuple[PyTree, ...], Float[Array, "P N"]]:
    """States of the prefix evidence after a token, and the sum of its scaled increments."""
    total, after = jnp.zeros(token.shape), []
    for (i, evidence), state in zip(_prefix_terms(target), states, strict=True):
        state, increment = jax.vmap(jax.vmap(evidence.step))(state, token)
        total += target.terms[i].scaled(increment).astype(total.dtype)
        after.append(state)
    return tuple(after), total


def _mark_low(rule: ResamplingRule | None, particles: Particles) -> Particles:
    """Finished particles count in the ESS; a prompt with nothing left to draw is never low."""
    if rule is None:
        return particles
    ess = effective_sample_size(particles.log_weights)
    low = ess < rule.threshold * particles.log_weights.shape[-1]
    return particles.replace(low=low & particles.active)


def _resample(
    proposer: Proposer, rule: ResamplingRule, random: Randomness, particles: Particles
) -> Particles:
    """Resample the prompts that are low; the others keep their particles and weights."""
    t, low, log_weights = particles.t, particles.low, particles.log_weights
    slots = jnp.broadcast_to(jnp.arange(log_weights.shape[1], dtype=jnp.int32), log_weights.shape)
    known_weights = jnp.where(low[:, None], log_weights, 0.0)
    num_tokens = random.uniforms.shape[0]
    keys = jax.vmap(lambda key: jax.random.fold_in(key, num_tokens + t))(random.keys)
    counts = jax.vmap(rule.scheme)(keys, known_weights)
    ancestors = jax.vmap(stay_in_place)(counts)
    ancestors = jnp.where(low[:, None], ancestors, slots)
    return particles.replace(
        models=proposer.reorder(particles.models, ancestors),
        paths=particles.paths.reorder(ancestors),
        log_weights=jnp.where(low[:, None], 0.0, log_weights),
        log_z=particles.log_z + jnp.where(low, log_mean_exp(log_weights), 0.0),
        low=jnp.zeros_like(low),
        num_resamples=particles.num_resamples + low,
        ancestors=jax.lax.dynamic_update_index_in_dim(particles.ancestors, ancestors, t, 0),
    )
