"""Particles drawn token by token: the machinery that importance sampling and SMC share.

Everything between two host calls is one jitted loop. The inner loop advances the models by one
token and leaves when any prompt is to be resampled; the outer body resamples only those prompts,
ahead of the next forward pass, so that model states move only when a resampling happens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bayesft.base import Key, Prompt, PyTree, is_eos, stages, withholding
from bayesft.draws import effective_sample_size, log_mean_exp, normalised_weights
from bayesft.samplers import whole
from bayesft.samplers.particles import History, Particles, Paths
from bayesft.samplers.prefixes import Prefixes
from bayesft.samplers.proposers import Proposer, TokenRandomness, prepared
from bayesft.samplers.resampling import Resampling, draw_ancestors
from bayesft.sharding import join, split
from bayesft.target import Target


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ResamplingRule:
    """Resample a prompt when its ESS falls below `threshold` · N."""

    scheme: Resampling = dataclasses.field(metadata={"static": True})
    threshold: float


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Schedule:
    """When particles are resampled and when evidence on whole sequences is asked."""

    rule: ResamplingRule | None = None
    delimiters: Bool[Array, " V"] | None = None
    """Tokens at which evidence is asked about prefixes; None: at numbers of tokens."""
    looks_ahead: bool = dataclasses.field(default=True, metadata={"static": True})
    """Whether evidence on whole sequences is asked about prefixes at all."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Randomness:
    """The random numbers of a run by position, made ahead, so that token steps need not."""

    uniforms: Float[Array, "T P N"]
    """One per token."""
    keys: Key
    """[P]; t is folded in for the uniforms of token t, T + t for the resampling ahead of it, and
    2T + t for whatever else its proposal needs, 3T + t for the end of a block."""

    def at(self, t: Int[Array, ""]) -> TokenRandomness:
        return TokenRandomness(self.uniforms[t], self._folded(2 * self.uniforms.shape[0] + t))

    def for_resampling(self, t: Int[Array, ""]) -> Key:
        return self._folded(self.uniforms.shape[0] + t)

    def for_blocks(self, t: Int[Array, ""]) -> tuple[Key, Key]:
        """For choosing within groups and for resampling them, at the end of a block."""
        keys = jax.vmap(jax.random.split)(self._folded(3 * self.uniforms.shape[0] + t))
        return keys[:, 0], keys[:, 1]

    def _folded(self, number: Int[Array, ""]) -> Key:
        return jax.vmap(lambda key: jax.random.fold_in(key, number))(self.keys)


@partial(jax.jit, static_argnames=("num_particles", "num_tokens"))
def randomness(ids: Int[Array, " P"], key: Key, num_particles: int, num_tokens: int) -> Randomness:
    """The same for a prompt whichever others share its batch."""

    def uniforms(t: Array, key: Key) -> Array:
        return jax.random.uniform(jax.random.fold_in(key, t), (num_particles,))

    keys = jax.vmap(lambda prompt_id: jax.random.fold_in(key, prompt_id))(ids)
    times = jnp.arange(num_tokens, dtype=jnp.int32)
    return Randomness(jax.vmap(lambda t: jax.vmap(partial(uniforms, t))(keys))(times), keys)


@partial(jax.jit, static_argnames="staged")
def start(
    target: Target,
    proposer: Proposer,
    schedule: Schedule,
    xs: Prompt,
    random: Randomness,
    *,
    staged: bool = False,
) -> Particles:
    """Particles with their first token; with `staged`, for `in_stages` to go on with."""
    num_tokens, *shape = random.uniforms.shape
    num_prompts, num_particles = shape
    proposer = prepared(proposer)
    models, logits = proposer.start(xs, num_particles, num_tokens)
    if staged:
        models = withholding(models, num_tokens - stages(models, num_tokens)[0])
    zeros, never = jnp.zeros(shape), jnp.zeros(shape, bool)
    paths = Paths(
        tokens=jnp.full((*shape, num_tokens), target.prior.eos[0], jnp.int32),
        lengths=jnp.zeros(shape, jnp.int32),
        done=never,
        log_prior=zeros,
        log_prefix=zeros,
        prefix_states=Prefixes.start(target, xs, num_particles),
        whole=tuple(zeros for _ in whole.whole_terms(target)),
        settled=never,
        log_twist=zeros,
        mark=jnp.zeros(shape, jnp.int32),
    )
    slots = jnp.arange(num_particles, dtype=jnp.int32)
    history = History(
        ancestors=jnp.broadcast_to(slots, (num_tokens, *shape)),
        tokens=jnp.zeros((num_tokens, *shape), jnp.int32),
        log_weights=jnp.zeros((num_tokens, *shape)),
    )
    particles = Particles(
        t=jnp.int32(0),
        models=models,
        paths=paths,
        log_weights=zeros,
        log_z=jnp.zeros(num_prompts),
        low=jnp.zeros(num_prompts, bool),
        num_resamples=jnp.zeros(num_prompts, jnp.int32),
        weighed_at=jnp.zeros(num_prompts, jnp.int32),
        log_covered=jnp.zeros(num_prompts),
        history=history if schedule.rule else None,
    )
    return extend(target, proposer, schedule, random, particles, logits)


def _advance(
    target: Target,
    proposer: Proposer,
    schedule: Schedule,
    random: Randomness,
    particles: Particles,
    stop: int | Int[Array, ""],
) -> Particles:
    """The particles with `stop` tokens each, or fewer: where no prompt is active before, or where
    one has come to its delimiters."""
    rule, proposer = schedule.rule, prepared(proposer)

    def going(particles: Particles) -> Array:
        more = (particles.t < stop) & particles.active.any()
        return more if schedule.delimiters is None else more & ~particles.at_delimiters.any()

    def one_token(particles: Particles) -> Particles:
        last = jnp.maximum(particles.t - 1, 0)
        token = jax.lax.dynamic_index_in_dim(particles.paths.tokens, last, 2, keepdims=False)
        models, logits = proposer.advance(particles.models, token)
        return extend(target, proposer, schedule, random, particles.replace(models=models), logits)

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
    schedule: Schedule,
    xs: Prompt,
    particles: Particles,
    host_values: dict[str, Float[Array, "P N"]],
) -> Particles:
    """The particles with evidence on whole sequences in their weights."""
    return _mark_low(schedule.rule, whole.weigh(target, schedule, xs, particles, host_values))


def in_stages(
    advance: Callable[[Particles, int], Particles],
    particles: Particles,
    stop: int,
    *,
    in_place: bool,
) -> Particles:
    """The particles advanced to `stop` tokens, the models' buffers growing on the way.

    `in_place` for a caller that owns the particles: no old buffer stays beside its successor.
    """
    num_tokens = particles.paths.tokens.shape[-1]
    for end in stages(particles.models, num_tokens):
        if int(particles.t) >= end:
            continue
        models = withholding(particles.models, num_tokens - end, free=in_place)
        particles = advance(particles.replace(models=models), min(stop, end))
        if stop <= end or int(particles.t) < end:
            break
    return particles


advance, weigh = jax.jit(_advance), jax.jit(_weigh)
# The same for a caller that owns the particles: no second copy of the models' state.
advance_in_place = jax.jit(_advance, donate_argnames="particles")
weigh_in_place = jax.jit(_weigh, donate_argnames="particles")


def extend(
    target: Target,
    proposer: Proposer,
    schedule: Schedule,
    random: Randomness,
    particles: Particles,
    logits: PyTree,
) -> Particles:
    """Draw the token at position t and account for it in the weights."""
    t, paths, horizon = particles.t, particles.paths, target.horizon
    last = t == horizon.max_new_tokens - 1
    # Alone, a prompt with nothing left to draw would have stopped: in a batch its rows stand still.
    ended_before = paths.done | ~particles.active[:, None]
    needed = particles.alive & ~ended_before
    prefixes = Prefixes(target, paths.prefix_states, t, needed)
    choice = join(proposer.choose(random.at(t), split(logits), prefixes))
    token = jnp.where(ended_before, target.prior.eos[0], choice.token)
    log_prior, log_ratio = choice.log_prior, choice.log_ratio
    done = paths.done | (is_eos(token, target.prior.eos) & ~ended_before)
    if horizon.eos_policy == "condition":
        log_prior = jnp.where(~done & last, -jnp.inf, log_prior)
        log_ratio = jnp.where(~done & last, -jnp.inf, log_ratio)
    prefix_states, increment = prefixes.step(token)
    log_twist = paths.log_twist
    if choice.log_twist is not None:
        # What stands in for evidence on the whole sequence stays until that is in the weight.
        stands = jnp.bool_(bool(paths.whole)) | ~(done | last)
        log_twist = jnp.where(ended_before, log_twist, jnp.where(stands, choice.log_twist, 0.0))

    def add(total: Array, change: Array) -> Array:
        """Nothing is added after the end, nor to what is impossible already."""
        return jnp.where(ended_before | (total == -jnp.inf), total, total + change)

    log_weights = add(particles.log_weights, log_ratio + increment + log_twist - paths.log_twist)
    if choice.missing is not None:
        particles = particles.replace(log_covered=_covered(particles, choice.missing))
    if particles.history is not None:
        history = particles.history.with_token(t, token, log_weights)
        particles = particles.replace(history=history)
    mark = paths.mark
    if schedule.delimiters is not None:
        mark = jnp.where(schedule.delimiters[token] & ~ended_before, t + 1, mark)
    paths = dataclasses.replace(
        paths,
        tokens=jax.lax.dynamic_update_index_in_dim(paths.tokens, token, t, 2),
        lengths=paths.lengths + ~ended_before,
        done=done,
        log_prior=add(paths.log_prior, log_prior),
        log_prefix=add(paths.log_prefix, increment),
        prefix_states=prefix_states,
        log_twist=log_twist,
        mark=mark,
    )
    return _mark_low(
        schedule.rule, particles.replace(t=t + 1, paths=paths, log_weights=log_weights)
    )


def _covered(particles: Particles, missing: Float[Array, "P N"]) -> Float[Array, " P"]:
    """The share of mass that can be drawn so far, after a token of which some cannot be."""
    weights = normalised_weights(particles.log_weights)
    lost = jnp.where(particles.paths.done, 0.0, missing)
    return particles.log_covered + jnp.log1p(-jnp.minimum((weights * lost).sum(-1), 1.0))


def _mark_low(rule: ResamplingRule | None, particles: Particles) -> Particles:
    """Finished particles count in the ESS; a prompt with nothing left to draw is never low."""
    particles = particles.joined()
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
    ancestors = draw_ancestors(rule.scheme, random.for_resampling(t), low, log_weights)
    history = particles.history
    return particles.replace(
        models=proposer.reorder(particles.models, ancestors),
        paths=particles.paths.reorder(ancestors),
        log_weights=jnp.where(low[:, None], 0.0, log_weights),
        log_z=particles.log_z + jnp.where(low, log_mean_exp(log_weights), 0.0),
        low=jnp.zeros_like(low),
        num_resamples=particles.num_resamples + low,
        history=None if history is None else history.with_ancestors(t, ancestors),
    )
