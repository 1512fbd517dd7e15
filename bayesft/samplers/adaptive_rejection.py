"""Adaptive weighted rejection: tokens that satisfy a constraint, without looking at all of them."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bayesft.priors.sequence import inverse_cdf
from bayesft.samplers.proposers import Choice, FromPrior, Proposal, constrained, log_prob_of
from bayesft.target import Target

_DUST = 1e-6
"""Share of the prior below which what is left counts as nothing: float32 sums are no finer."""


class _Search(NamedTuple):
    logits: Float[Array, "P N V"]
    """What has been rejected is -inf."""
    token: Int[Array, "P N"]
    """The first one accepted."""
    num_accepted: Int[Array, "P N"]
    rejected: Float[Array, "P N"]
    """Mass M of what has been rejected."""
    total: Float[Array, "P N"]
    """Σ 1/(1 − M) over the rejections so far, none included."""
    attempt: Int[Array, ""]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ByRejection(FromPrior):
    """See `adaptive_weighted_rejection`."""

    def choose(self, random, logits, prefixes):
        logits = constrained(logits, prefixes)
        prior, shape = jax.nn.log_softmax(logits), logits.shape[:2]
        vocabulary = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2)

        def open_(search: _Search) -> Bool[Array, "P N"]:
            left = 1.0 - search.rejected > _DUST
            return (search.num_accepted < 2) & left

        def attempt(search: _Search) -> _Search:
            keys = jax.vmap(jax.random.fold_in, (0, None))(random.keys, search.attempt)
            uniforms = jax.vmap(lambda key: jax.random.uniform(key, shape[1:]))(keys)
            # Of a search that is over, what is drawn is not looked at.
            token, _ = inverse_cdf(uniforms, search.logits)
            _, increment = prefixes.step(token)
            counts = open_(search)
            # Unequal to -inf, not above it: NaN must come through to where it is noticed.
            accepted = counts & (increment != -jnp.inf)
            refused = counts & ~accepted
            mass = jnp.exp(jnp.take_along_axis(prior, token[..., None], -1)[..., 0])
            rejected = search.rejected + jnp.where(refused, mass, 0.0)
            removed = refused[..., None] & (vocabulary == token[..., None])
            return _Search(
                logits=jnp.where(removed, -jnp.inf, search.logits),
                token=jnp.where(accepted & (search.num_accepted == 0), token, search.token),
                num_accepted=search.num_accepted + accepted,
                rejected=rejected,
                total=search.total + jnp.where(refused, _odds(rejected), 0.0),
                attempt=search.attempt + 1,
            )

        zeros = jnp.zeros(shape, prior.dtype)
        # A search for a particle that has ended, or is dead, is over before it begins.
        idle = jnp.zeros(shape, bool) if prefixes.needed is None else ~prefixes.needed
        start = _Search(
            logits=logits,
            token=jnp.full(shape, self.prior.eos[0], jnp.int32),
            num_accepted=jnp.where(idle, 2, 0),
            rejected=zeros,
            total=zeros + 1.0,
            attempt=jnp.int32(0),
        )
        found = jax.lax.while_loop(lambda s: open_(s).any(), attempt, start)
        dead = found.num_accepted == 0
        log_prior = log_prob_of(found.token, prior)
        return Choice(found.token, log_prior, jnp.where(dead, -jnp.inf, -jnp.log(found.total)))


def _odds(rejected: Float[Array, "P N"]) -> Float[Array, "P N"]:
    """1/(1 − M): how much more often what is left is drawn than at first."""
    return 1.0 / jnp.maximum(1.0 - rejected, _DUST)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RejectionProposal(Proposal):
    """See `adaptive_weighted_rejection`."""

    def proposer(self, target: Target) -> ByRejection:
        return ByRejection(target.prior)


def adaptive_weighted_rejection() -> RejectionProposal:
    """Proposes tokens of the prior that the prefix evidence allows, weighted without bias.

    Tokens are drawn from the prior, a rejected one (increment -inf) is struck out, until two have
    been accepted. The first is a draw of the prior restricted to the allowed tokens, and

        Ẑ = 1 / Σ_{i=0}^{n} 1/(1 − M_i),

    with M_i the mass of the first i of the n tokens rejected, is an unbiased estimate, independent
    of it, of the mass of the allowed ones, by which the weight is multiplied: what remains of
    Haldane's (r − 1)/(n − 1) when draws are without replacement. (The algorithm of Lipkin et al.
    2025; the estimator is derived by conditioning on the order of the rejections.)

    The cost is that of as many attempts as the unluckiest particle needs, about 2 / (allowed mass),
    instead of V increments as for `locally_optimal`. A particle dies when all but a millionth of
    the prior has been rejected. Goes where samplers take a `proposal`.
    """
    return RejectionProposal()
