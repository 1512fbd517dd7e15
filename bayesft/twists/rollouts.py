"""Sequences that SMC proposes with the current twist, and what an objective sees of them.

They are SMC's own draws when it never resamples: every prefix of every one of them is then an
independent draw whose density is known, so that one set of sequences stands, weighted, for the
posterior (positives), for each intermediate target π0·φ_prefix·ψ_t (negatives), and for the prior.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from bayesft.base import Key, Potential, Prompt, Twist, is_eos, sequence_lengths
from bayesft.draws import log_mean_exp
from bayesft.samplers import sequential
from bayesft.samplers.prefixes import Prefixes
from bayesft.samplers.proposers import FromPrior, Proposer
from bayesft.samplers.tilted import TiltedProposal
from bayesft.samplers.validation import require_log_densities, require_twists
from bayesft.samplers.whole import whole_terms
from bayesft.target import Target


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rollouts:
    """N sequences per prompt, drawn from q; what follows their end is padding and counts 0."""

    tokens: Int[Array, "P N T"]
    log_ratio: Float[Array, "P N T"]
    """log π0·φ_t/q of each token in nats, φ_t its increment of the prefix evidence."""
    log_end: Float[Array, "P N"]
    """Evidence on the whole sequence; -inf where `eos` rules it out."""

    @property
    def log_weights(self) -> Float[Array, "P N"]:
        """log π0·φ/q of whole sequences: proper weights for the target."""
        return self.log_ratio.sum(-1) + self.log_end


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Paths:
    """The rollouts of one prompt beside the twist that is learned."""

    log_twists: Float[Array, "N T"]
    """log ψ of the prefix that each token completes; once a sequence has ended, what is known of
    it: `log_end`. Gradients flow where `live`."""
    log_ratio: Float[Array, "N T"]
    log_end: Float[Array, " N"]
    live: Bool[Array, "N T"]
    """Whether ψ is to be learned here: not on padding, and at a sequence's last token only where
    evidence on whole sequences is still to come."""

    @property
    def log_prefix_weights(self) -> Float[Array, "N T"]:
        """log π0·φ_prefix/q of every prefix."""
        return jnp.cumsum(self.log_ratio, axis=-1)

    @property
    def log_weights(self) -> Float[Array, " N"]:
        return self.log_ratio.sum(-1) + self.log_end

    @property
    def log_z(self) -> Float[Array, ""]:
        """Estimate of log Z, -inf where every weight is 0."""
        return log_mean_exp(self.log_weights)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Positives:
    """Weighted posterior draws of one prompt beside the twist that is learned."""

    log_twists: Float[Array, "M T"]
    live: Bool[Array, "M T"]
    weights: Float[Array, " M"]
    """Sum to 1, or all 0 where none is known."""

    def mean(self, values: Float[Array, "M T"]) -> Float[Array, " T"]:
        """Posterior mean at every position, over what is live."""
        counts = self.live & (self.weights > 0)[:, None]
        return jnp.where(counts, self.weights[:, None] * values, 0.0).sum(0)


def roll_out(target: Target, twist: Twist | None, key: Key, num_particles: int) -> Rollouts:
    """Draws of the twisted proposal (None: of the prior) for every prompt, with their evidence.

    Python evidence is called once for all rows. Raises what evidence raises, and SamplerError for
    weights that are NaN.
    """
    proposer = FromPrior(target.prior) if twist is None else _proposer(target, twist)
    num_tokens = target.horizon.max_new_tokens
    random = sequential.randomness(target.xs.id, key, num_particles, num_tokens)
    tokens, log_ratio, log_end = _draw(target, proposer, target.xs, random)
    if target.host_terms:
        found = np.array(log_end)
        asked = np.asarray(log_ratio.sum(-1) + log_end) > -np.inf
        if asked.any():
            ids = np.broadcast_to(np.asarray(target.xs.id)[:, None], asked.shape)[asked]
            rows = np.asarray(tokens)[asked]
            lengths = np.asarray(sequence_lengths(jnp.asarray(rows), target.prior.eos))
            values = target.evaluate_host(ids, rows, lengths)
            for term in target.host_terms:
                scaled = term.scaled(jnp.asarray(values[term.evidence.name]))
                found[asked] += np.asarray(scaled)
        log_end = jnp.asarray(found)
    if twist is not None:
        require_twists(twist, log_ratio.sum(-1))
    require_log_densities(target, log_ratio.sum(-1), log_end)
    return Rollouts(tokens, log_ratio, log_end)


def _proposer(target: Target, twist: Twist) -> Proposer:
    return TiltedProposal(None, twist).proposer(target)


@jax.jit
def _draw(
    target: Target, proposer: Proposer, xs: Prompt, random: sequential.Randomness
) -> tuple[Array, Array, Array]:
    num_tokens, *shape = random.uniforms.shape
    num_particles = shape[1]
    eos, policy = target.prior.eos, target.horizon.eos_policy

    def going(carry):
        t, *_, done, _, _ = carry
        return (t < num_tokens) & ~done.all()

    def step(carry):
        t, models, logits, states, done, tokens, log_ratios = carry
        prefixes = Prefixes(target, states, t)
        choice = proposer.choose(random.at(t), logits, prefixes)
        token = jnp.where(done, eos[0], choice.token)
        states, increment = prefixes.step(token)
        log_ratio = jnp.where(done, 0.0, choice.log_ratio + increment)
        put = jax.lax.dynamic_update_index_in_dim
        tokens, log_ratios = put(tokens, token, t, 2), put(log_ratios, log_ratio, t, 2)
        models, logits = proposer.advance(models, token)
        return t + 1, models, logits, states, done | is_eos(token, eos), tokens, log_ratios

    models, logits = proposer.start(xs, num_particles, num_tokens)
    states = Prefixes.start(target, xs, num_particles)
    tokens = jnp.full((*shape, num_tokens), eos[0], jnp.int32)
    empty = (tokens, jnp.zeros(tokens.shape))
    carry = (jnp.int32(0), models, logits, states, jnp.zeros(shape, bool), *empty)
    *_, done, tokens, log_ratio = jax.lax.while_loop(going, step, carry)
    log_end = jax.vmap(jax.vmap(partial(_log_end, target), (0, None)))(tokens, xs)
    if policy == "condition":
        log_end = jnp.where(done, log_end, -jnp.inf)
    return tokens, log_ratio, log_end


def _log_end(target: Target, tokens: Int[Array, " T"], x: Prompt) -> Float[Array, ""]:
    """What JAX evaluates on the whole sequence."""
    length = sequence_lengths(tokens, target.prior.eos)
    total = jnp.zeros(())
    for term in target.terms:
        if isinstance(term.evidence, Potential):
            total += term.scaled(term.evidence.log_potential(tokens, x, length))
    return total


def beside(
    target: Target, twist: Twist, xs: Prompt, tokens: Int[Array, "P N T"]
) -> tuple[Float[Array, "P N T"], Bool[Array, "P N T"]]:
    """log ψ of every prefix of the sequences, teacher-forced, and where it is to be learned."""

    def of_path(x: Prompt, tokens: Array) -> Array:
        return twist.path_log_twists(tokens, x, target.prior)

    log_twists = jax.vmap(jax.vmap(of_path, (None, 0)))(xs, tokens)
    lengths = sequence_lengths(tokens, target.prior.eos)
    position = jax.lax.broadcasted_iota(jnp.int32, tokens.shape, 2)
    # ψ ≡ 1 on a finished sequence, unless it stands in for evidence that comes later.
    last = lengths if whole_terms(target) else lengths - 1
    return log_twists, position < last[..., None]
