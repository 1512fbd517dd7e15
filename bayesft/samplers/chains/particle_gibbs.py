"""Particle Gibbs: conditional SMC around the current sequence, with or without new ancestors."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bayesft.base import Key, PrefixEvidence, Prompt, PyTree, Term, is_eos
from bayesft.draws import effective_sample_size
from bayesft.errors import SamplerError
from bayesft.priors.sequence import inverse_cdf
from bayesft.samplers.chains.ancestor_sampling import log_gain
from bayesft.samplers.chains.kernel import Candidates, Chains, Kernel, folded, gibbs
from bayesft.samplers.chains.walk import log_prob_of
from bayesft.samplers.resampling import stay_in_place
from bayesft.samplers.validation import require_count
from bayesft.sharding import join
from bayesft.target import Target


def particle_gibbs(
    num_particles: int, ancestor_sampling: bool = True, ess_threshold: float = 0.5
) -> ParticleGibbs:
    """Kernel that runs SMC with one of N particles held to the current sequence, and takes one of
    the N by its final weight (Andrieu, Doucet and Holenstein 2010, section 4.3).

    Tokens come from the prior, prefix evidence weighs them, and where the ESS of a chain's
    particles is below `ess_threshold` · N the others are resampled multinomially. Evidence on whole
    sequences enters the final weights. N ≥ 2 of any size leaves p* invariant.

    With `ancestor_sampling` the held particle gets a new past at each resampling, particle n with
    probability ∝ w_n·γ(y_<t of n ⊕ the held tokens from t on)/γ_t(y_<t of n), γ = π0·φ (Lindsten,
    Jordan and Schön 2014), so that early tokens change although particles share ancestors. It
    scores N whole sequences at each resampling, and needs all evidence in JAX.

    Raises SamplerError for settings out of range, and with `ancestor_sampling` when bound to a
    target with Python evidence.
    """
    if require_count("num_particles", num_particles) < 2:
        raise SamplerError(
            "Particle Gibbs with one particle never moves.",
            cause="the one particle is held to the current sequence.",
            remedy="use num_particles ≥ 2; 16 and more are usual.",
        )
    if not isinstance(ess_threshold, int | float) or not 0 <= ess_threshold <= 1:
        raise SamplerError(
            f"ess_threshold={ess_threshold!r} is not between 0 and 1.",
            cause="a number of particles instead of a share of them.",
            remedy="use 0.5, 0 (never resample) or 1 (always).",
        )
    return ParticleGibbs(num_particles, bool(ancestor_sampling), float(ess_threshold))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Swarm:
    """N particles of each of P·C chains, all t tokens long or ended, ahead of token t."""

    t: Int[Array, ""]
    models: PyTree  # leads with [P, C·N], as do the prefix states
    prefix_states: tuple[PyTree, ...]
    tokens: Int[Array, "P C N T"]
    done: Bool[Array, "P C N"]
    log_prior: Float[Array, "P C N"]
    log_prefix: Float[Array, "P C N"]
    """Prefix evidence so far, scaled."""
    log_weights: Float[Array, "P C N"]
    """Since the last resampling."""
    held: Int[Array, "P C"]
    """Which particle is held to the current sequence."""
    low: Bool[Array, "P C"]

    def replace(self, **changes: Any) -> Swarm:
        return dataclasses.replace(self, **changes)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ParticleGibbs(Kernel):
    """See `particle_gibbs`."""

    num_particles: int = dataclasses.field(metadata={"static": True})
    ancestor_sampling: bool = dataclasses.field(metadata={"static": True})
    ess_threshold: float

    def bind(self, target: Target) -> ParticleGibbs:
        if self.ancestor_sampling and target.host_terms:
            names = [term.evidence.name for term in target.host_terms]
            raise SamplerError(
                f"Ancestor sampling would call the Python evidence {names} at every resampling.",
                cause="its weights need the evidence of whole sequences inside the jitted loop.",
                remedy="use particle_gibbs(…, ancestor_sampling=False), or evidence in JAX.",
            )
        return self

    def propose(self, target: Target, xs: Prompt, keys: Key, chains: Chains) -> Candidates:
        swarm = _grow(self, target, xs, keys, chains)
        impossible = swarm.log_weights == -jnp.inf
        log_prior = swarm.log_prior
        if target.horizon.eos_policy == "condition":
            impossible |= ~swarm.done
            log_prior = jnp.where(swarm.done, log_prior, -jnp.inf)
        # Whoever runs the kernel adds the whole evidence, the prefix evidence included.
        log_weights = jnp.where(impossible, -jnp.inf, swarm.log_weights - swarm.log_prefix)
        ended_before = jnp.cumsum(is_eos(swarm.tokens, target.prior.eos), -1)[..., :-1] > 0
        lengths = swarm.tokens.shape[-1] - ended_before.sum(-1, dtype=jnp.int32)
        if self.ancestor_sampling:  # no particle is the current sequence any more
            nothing = jnp.full(chains.log_prior.shape, -jnp.inf)
            return Candidates(swarm.tokens, lengths, log_prior, log_weights, nothing)
        return Candidates(
            swarm.tokens[:, :, 1:],
            lengths[..., 1:],
            log_prior[..., 1:],
            log_weights[..., 1:],
            log_weights[..., 0],
        )

    def select(self, keys, log_weights):
        return gibbs(keys, log_weights)


def _grow(kernel: ParticleGibbs, target: Target, xs: Prompt, keys: Key, chains: Chains) -> Swarm:
    """The particles with all their tokens; the held one is number 0 unless it got new ancestors."""
    prior, num_tokens = target.prior.prepared(), target.horizon.max_new_tokens
    shape = (*keys.shape, kernel.num_particles)
    models, logits = prior.start(xs, shape[1] * shape[2], num_tokens)

    def spread(a: Array) -> Array:
        return jnp.broadcast_to(a[:, None], (a.shape[0], shape[1] * shape[2], *a.shape[1:]))

    zeros = jnp.zeros(shape)
    swarm = Swarm(
        t=jnp.int32(0),
        models=models,
        prefix_states=tuple(
            jax.tree.map(spread, jax.vmap(evidence.init)(xs)) for _, evidence in _prefix(target)
        ),
        tokens=jnp.full((*shape, num_tokens), prior.eos[0], jnp.int32),
        done=jnp.zeros(shape, bool),
        log_prior=zeros,
        log_prefix=zeros,
        log_weights=zeros,
        held=jnp.zeros(shape[:2], jnp.int32),
        low=jnp.zeros(shape[:2], bool),
    )
    swarm = _extend(kernel, target, keys, chains, swarm, logits)
    resample = partial(_resample, kernel, target, xs, keys, chains)

    def going(swarm: Swarm) -> Array:
        return (swarm.t < num_tokens) & _active(swarm).any()

    def one_token(swarm: Swarm) -> Swarm:
        last = jax.lax.dynamic_index_in_dim(swarm.tokens, swarm.t - 1, 3, keepdims=False)
        models, logits = prior.advance(swarm.models, last.reshape(shape[0], -1))
        return _extend(kernel, target, keys, chains, swarm.replace(models=models), logits)

    def body(swarm: Swarm) -> Swarm:
        # A loop of at most one turn, not a `cond`: a loop leaves the models' state in place.
        swarm = jax.lax.while_loop(lambda s: s.low.any(), resample, swarm)
        return jax.lax.while_loop(lambda s: going(s) & ~s.low.any(), one_token, swarm)

    return jax.lax.while_loop(going, body, swarm)


def _prefix(target: Target) -> list[tuple[Term, PrefixEvidence]]:
    return [(t, t.evidence) for t in target.terms if isinstance(t.evidence, PrefixEvidence)]


def _active(swarm: Swarm) -> Bool[Array, "P C"]:
    return ((swarm.log_weights > -jnp.inf) & ~swarm.done).any(-1)


def _extend(
    kernel: ParticleGibbs,
    target: Target,
    keys: Key,
    chains: Chains,
    swarm: Swarm,
    logits: Float[Array, "P R V"],
) -> Swarm:
    """Token t of every particle: drawn from the prior, for the held one as the chain has it."""
    t, eos, shape = swarm.t, target.prior.eos, swarm.done.shape
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    logits = target.horizon.constrain(logits.reshape(*shape, -1), t, eos)
    uniform = jax.vmap(jax.vmap(lambda key: jax.random.uniform(key, shape[2:])))(folded(keys, t))
    token, _ = join(inverse_cdf(uniform, logits))
    current = jax.lax.dynamic_index_in_dim(chains.tokens, t, 2)  # [P, C, 1]
    token = jnp.where(_is_held(swarm), current, token)
    token = jnp.where(swarm.done, eos[0], token)
    states, increment = _prefix_step(target, swarm.prefix_states, token)

    def add(total: Array, change: Array) -> Array:
        """Nothing is added after the end, nor to what is impossible already."""
        return jnp.where(swarm.done | (total == -jnp.inf), total, total + change)

    after = swarm.replace(
        t=t + 1,
        prefix_states=states,
        tokens=jax.lax.dynamic_update_index_in_dim(swarm.tokens, token, t, 3),
        done=swarm.done | is_eos(token, eos),
        log_prior=add(swarm.log_prior, log_prob_of(token, logits)),
        log_prefix=add(swarm.log_prefix, increment),
        log_weights=add(swarm.log_weights, increment),
    )
    low = effective_sample_size(after.log_weights) < kernel.ess_threshold * shape[2]
    return after.replace(low=low & _active(after))


def _is_held(swarm: Swarm) -> Bool[Array, "P C N"]:
    slots = jnp.arange(swarm.done.shape[2], dtype=jnp.int32)[None, None]
    return slots == swarm.held[..., None]


def _prefix_step(
    target: Target, states: tuple[PyTree, ...], token: Int[Array, "P C N"]
) -> tuple[tuple[PyTree, ...], Float[Array, "P C N"]]:
    flat = token.reshape(token.shape[0], -1)
    total, after = jnp.zeros(flat.shape), []
    for (term, evidence), state in zip(_prefix(target), states, strict=True):
        state, increment = jax.vmap(jax.vmap(evidence.step))(state, flat)
        total += term.scaled(increment).astype(total.dtype)
        after.append(state)
    return tuple(after), total.reshape(token.shape)


def _resample(
    kernel: ParticleGibbs,
    target: Target,
    xs: Prompt,
    keys: Key,
    chains: Chains,
    swarm: Swarm,
) -> Swarm:
    """Resample the chains that are low; the held particle survives, or gets a new past.

    It is then in the slot of its ancestor, which survives in place.
    """
    num_prompts, num_chains, num_particles = swarm.done.shape
    low, num_tokens = swarm.low, swarm.tokens.shape[-1]
    known = jnp.where(low[..., None], swarm.log_weights, 0.0)
    own = folded(keys, num_tokens + swarm.t)
    uniform = jax.vmap(jax.vmap(lambda key: jax.random.uniform(key, (num_particles,))))(own)
    rows = jnp.broadcast_to(known[:, :, None], (*known.shape[:2], num_particles - 1, num_particles))
    chosen, _ = inverse_cdf(uniform[..., 1:], rows)
    held = swarm.held
    if kernel.ancestor_sampling:
        so_far = swarm.log_prior + swarm.log_prefix
        log_weights = known + log_gain(
            target, xs, chains, swarm.t, swarm.tokens, swarm.done, so_far
        )
        log_weights = jnp.where(known == -jnp.inf, -jnp.inf, log_weights)
        held, _ = inverse_cdf(uniform[..., 0], log_weights)
        held = jnp.where(low, held, swarm.held)
    counts = jax.nn.one_hot(jnp.concatenate([held[..., None], chosen], -1), num_particles)
    counts = counts.sum(2).astype(jnp.int32)
    ancestors = jax.vmap(jax.vmap(stay_in_place))(counts)
    slots = jnp.arange(num_particles, dtype=jnp.int32)[None, None]
    ancestors = jnp.where(low[..., None], ancestors, slots)
    first = jnp.arange(num_chains, dtype=jnp.int32)[None, :, None] * num_particles
    flat = (ancestors + first).reshape(num_prompts, -1)

    def take(a: Array) -> Array:
        return jax.vmap(lambda row, i: row[i])(a, flat)

    def take_particles(a: Array) -> Array:
        return take(a.reshape(num_prompts, -1, *a.shape[3:])).reshape(a.shape)

    return swarm.replace(
        models=target.prior.reorder(swarm.models, flat),
        prefix_states=jax.tree.map(take, swarm.prefix_states),
        tokens=take_particles(swarm.tokens),
        done=take_particles(swarm.done),
        log_prior=take_particles(swarm.log_prior),
        log_prefix=take_particles(swarm.log_prefix),
        log_weights=jnp.where(low[..., None], 0.0, swarm.log_weights),
        held=held,
        low=jnp.zeros_like(low),
    )
