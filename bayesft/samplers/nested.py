"""Nested SMC: every particle grows by an SMC of its own, block by block."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bayesft.base import Claim, Key, Prior, Sampler
from bayesft.draws import Draws, effective_sample_size, log_mean_exp
from bayesft.priors.sequence import BoundGuide, inverse_cdf
from bayesft.samplers import sequential
from bayesft.samplers.particle_sampler import ParticleSampler, SMCState
from bayesft.samplers.particles import Particles
from bayesft.samplers.proposers import Proposal, Proposer, prepared, require_proposal
from bayesft.samplers.resampling import Resampling, draw_ancestors, systematic
from bayesft.samplers.sequential import Randomness, ResamplingRule, Schedule
from bayesft.samplers.smc import resampling_rule
from bayesft.samplers.validation import require_count
from bayesft.samplers.whole import on_host, whole_terms
from bayesft.target import Target


def nested_smc(
    num_particles: int,
    num_inner: int,
    block: int,
    proposal: Prior | BoundGuide | Proposal | None = None,
    ess_threshold: float = 0.5,
    inner_ess_threshold: float = 0.5,
    resampling: Resampling = systematic,
) -> NestedSampler:
    """Properly weighted draws by SMC whose proposal of `block` tokens is an SMC of its own.

    Each of N particles draws its next block by an inner SMC of M = `num_inner` particles from where
    it stands; one of these is kept, by weight, and the particle's weight is multiplied by the inner
    Ẑ, an unbiased estimate of the block's normaliser (Naesseth, Lindsten and Schön 2015). So the
    outer resampling sees only finished blocks, and the inner one only particles with a common past:
    for evidence that says little within a block, and for evidence on whole sequences, which is
    asked about prefixes at the end of each block as in `smc`.

    The last block's inner particles all count: there are N·M draws, at the cost of as many
    particles. Settings are otherwise as in `smc`. Raises SamplerError where one is out of range.
    """
    num_outer = require_count("num_particles", num_particles)
    return NestedSampler(
        rows=ParticleSampler(
            num_particles=num_outer * require_count("num_inner", num_inner),
            proposal=require_proposal(proposal),
        ),
        num_particles=num_outer,
        block=require_count("block", block),
        inner=resampling_rule(inner_ess_threshold, resampling),
        outer=resampling_rule(ess_threshold, resampling),
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NestedSampler(Sampler):
    """See `nested_smc`."""

    rows: ParticleSampler
    """The N·M inner particles, which are the rows of the models' state."""
    num_particles: int = dataclasses.field(metadata={"static": True})
    block: int = dataclasses.field(metadata={"static": True})
    inner: ResamplingRule
    outer: ResamplingRule

    @property
    def claim(self) -> Claim:
        return self.rows.claim

    def run(self, target: Target, key: Key) -> Draws:
        num_tokens = target.horizon.max_new_tokens
        proposing, random = self.rows.parts(target, key)
        schedule = Schedule()
        particles = sequential.start(target, proposing, schedule, target.xs, random)
        groups = jnp.zeros((len(target.prompts), self.num_particles))
        stop, finished = 0, False
        while not finished:
            stop = min(stop + self.block, num_tokens)
            arguments = target, proposing, self.inner, random
            particles, groups = _advance(*arguments, particles, groups, stop)
            if whole_terms(target):
                values = on_host(target, schedule, particles)
                arguments = target, schedule, target.xs
                particles = sequential.weigh_in_place(*arguments, particles, values)
            finished = stop == num_tokens or not particles.active.any()
            if not finished:
                particles, groups = _choose(proposing, self.outer, random, particles, groups)
        particles = particles.replace(log_weights=_joined(particles.log_weights, groups))
        return self.rows.finish(key, SMCState(target, particles, Schedule(self.outer), stop, True))


def _grouped(values: Float[Array, "P R"], groups: Float[Array, "P N"]) -> Float[Array, "P N M"]:
    return values.reshape(*groups.shape, -1)


@jax.jit
def _joined(log_weights: Float[Array, "P R"], groups: Float[Array, "P N"]) -> Float[Array, "P R"]:
    """Weights of inner particles among all of a prompt."""
    joined = _grouped(log_weights, groups) + groups[..., None]
    return joined.reshape(log_weights.shape)


@partial(jax.jit, donate_argnames="particles")
def _advance(
    target: Target,
    proposing: Proposer,
    rule: ResamplingRule,
    random: Randomness,
    particles: Particles,
    groups: Float[Array, "P N"],
    stop: int | Array,
) -> tuple[Particles, Float[Array, "P N"]]:
    """The inner particles with `stop` tokens each, resampled within their groups on the way."""
    schedule, proposing = Schedule(), prepared(proposing)

    def low(particles: Particles) -> Array:
        log_weights = _grouped(particles.log_weights, groups)
        going = particles.alive & ~particles.paths.done
        few = effective_sample_size(log_weights) < rule.threshold * log_weights.shape[-1]
        return few & going.reshape(log_weights.shape).any(-1)

    def resample(carry: tuple[Particles, Array]) -> tuple[Particles, Array]:
        particles, groups = carry
        few, log_weights = low(particles), _grouped(particles.log_weights, groups)
        keys = _group_keys(random.for_resampling(particles.t), groups.shape[1])
        within = jax.vmap(partial(draw_ancestors, rule.scheme))(keys, few, log_weights)
        rows = _first_rows(log_weights.shape) + within
        moved = _moved(proposing, particles, rows.reshape(particles.log_weights.shape))
        groups = groups + jnp.where(few, log_mean_exp(log_weights), 0.0)
        log_weights = jnp.where(few[..., None], 0.0, log_weights)
        return moved.replace(log_weights=log_weights.reshape(particles.log_weights.shape)), groups

    def one_token(carry: tuple[Particles, Array]) -> tuple[Particles, Array]:
        particles, groups = jax.lax.while_loop(lambda c: low(c[0]).any(), resample, carry)
        last = jnp.maximum(particles.t - 1, 0)
        token = jax.lax.dynamic_index_in_dim(particles.paths.tokens, last, 2, keepdims=False)
        models, logits = proposing.advance(particles.models, token)
        particles = particles.replace(models=models)
        return sequential.extend(target, proposing, schedule, random, particles, logits), groups

    def going(carry: tuple[Particles, Array]) -> Array:
        return (carry[0].t < stop) & carry[0].active.any()

    return jax.lax.while_loop(going, one_token, (particles, groups))


@partial(jax.jit, donate_argnames="particles")
def _choose(
    proposing: Proposer,
    rule: ResamplingRule,
    random: Randomness,
    particles: Particles,
    groups: Float[Array, "P N"],
) -> tuple[Particles, Float[Array, "P N"]]:
    """The end of a block: one inner particle stands for each group, and groups are resampled."""
    log_weights = _grouped(particles.log_weights, groups)
    before, groups = groups, groups + log_mean_exp(log_weights)
    keys = random.for_blocks(particles.t)
    uniforms = jax.vmap(lambda key: jax.random.uniform(key, groups.shape[1:]))(keys[0])
    # Unequal to -inf, not above it: NaN must come through to where it is noticed.
    possible = (log_weights != -jnp.inf).any(-1, keepdims=True)
    chosen, _ = inverse_cdf(uniforms, jnp.where(possible, log_weights, 0.0))
    low = effective_sample_size(groups) < rule.threshold * groups.shape[1]
    low &= particles.active
    ancestors = draw_ancestors(rule.scheme, keys[1], low, groups)
    rows = _first_rows(log_weights.shape)[..., 0] + chosen
    rows = jnp.take_along_axis(rows, ancestors, axis=1)[..., None]
    rows = jnp.broadcast_to(rows, log_weights.shape).reshape(particles.log_weights.shape)
    alive = jnp.take_along_axis(possible[..., 0], ancestors, axis=1)[..., None]
    reset = jnp.broadcast_to(jnp.where(alive, 0.0, -jnp.inf), log_weights.shape)
    # A prompt that is done keeps all of its inner particles, as it would alone.
    going = particles.active[:, None]
    slots = jax.lax.broadcasted_iota(jnp.int32, rows.shape, 1)
    reset = jnp.where(going, reset.reshape(rows.shape), particles.log_weights)
    particles = _moved(proposing, particles, jnp.where(going, rows, slots)).replace(
        log_weights=reset,
        log_z=particles.log_z + jnp.where(low, log_mean_exp(groups), 0.0),
        num_resamples=particles.num_resamples + low,
    )
    after = jnp.where(low[:, None], 0.0, jnp.where(possible[..., 0], groups, 0.0))
    return particles, jnp.where(going, after, before)


def _moved(proposing: Proposer, particles: Particles, rows: Int[Array, "P R"]) -> Particles:
    """Particles in which row r continues what rows[r] was; rows copied from are never overwritten,
    since a group that survives keeps its place and the inner particle that it chose."""
    return particles.replace(
        models=proposing.reorder(particles.models, rows), paths=particles.paths.reorder(rows)
    )


def _first_rows(shape: tuple[int, ...]) -> Int[Array, "P N M"]:
    """Index of the first row of each group."""
    return jax.lax.broadcasted_iota(jnp.int32, shape, 1) * shape[2]


def _group_keys(keys: Key, num_groups: int) -> Key:
    numbers = jnp.arange(num_groups, dtype=jnp.int32)
    return jax.vmap(lambda key: jax.vmap(partial(jax.random.fold_in, key))(numbers))(keys)
