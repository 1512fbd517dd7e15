"""The exact twist of a target that can be enumerated."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bayesft.base import PrefixEvidence, Prompt, is_eos
from bayesft.priors import scoring
from bayesft.priors.enumeration import enumerate_target
from bayesft.priors.sequence import normalised
from bayesft.samplers.whole import whole_terms
from bayesft.target import Target
from bayesft.twists.tabular import Tabular, tabular


def exact_twist(target: Target, prompt: int = 0) -> Tabular:
    """The optimal twist of a target, for its prompt of index `prompt`, by enumeration:

        ψ_t(y_1:t) = E_π0[φ | y_1:t] / φ_prefix(y_1:t)

    where φ_prefix is the prefix evidence so far, and sequences that `eos` rules out count 0. On a
    finished sequence it is the evidence that is not in the weight yet: that on whole sequences, or
    1 where there is none. With it every weight of twisted SMC is Z. What cannot be reached is 1.

    Raises NotEnumerableError where the target cannot be listed.
    """
    found = enumerate_target(target, prompt)
    target, tokens, lengths = found.target, found.tokens, found.lengths
    num_tokens = target.horizon.max_new_tokens
    twist = tabular(target.prior.vocab_size, num_tokens)
    # Under "condition" the enumeration gives cut sequences no prior; the denominators need it.
    horizon = normalised(target.horizon)
    log_prior = scoring.log_probs(target.prior, tokens[None], target.xs, horizon)[0]
    prefixes = np.asarray(jax.vmap(twist.prefixes)(jnp.asarray(tokens)))
    log_prefix = np.asarray(_log_prefix(target, jnp.asarray(tokens), found.x), np.float64)

    mass, evidence = np.zeros(twist.params.shape), np.zeros(twist.params.shape)
    so_far = np.zeros(twist.params.shape)
    prior, density = np.exp(log_prior), np.exp(found.log_prior + found.log_evidence)
    for t in range(num_tokens):
        at = prefixes[:, t], tokens[:, t]
        live = t < lengths
        np.add.at(mass, at, np.where(live, prior, 0.0))
        np.add.at(evidence, at, np.where(live, density, 0.0))
        so_far[prefixes[live, t], tokens[live, t]] = log_prefix[live, t]
    reached = (mass > 0) & (so_far > -np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_twists = np.where(reached, np.log(evidence) - np.log(mass) - so_far, 0.0)
    if not whole_terms(target):
        rows, last = np.arange(len(tokens)), lengths - 1
        log_twists[prefixes[rows, last], tokens[rows, last]] = 0.0
    return twist.with_params(jnp.asarray(log_twists, jnp.float32))


@jax.jit
def _log_prefix(target: Target, tokens: Int[Array, "M T"], x: Prompt) -> Float[Array, "M T"]:
    """log φ_prefix of tokens[:t + 1] for every t; the last one with the cut, if there is one."""

    def total(evidence: PrefixEvidence, tokens: Array) -> Array:
        last, increments = jax.lax.scan(evidence.step, evidence.init(x), tokens)
        cut = jnp.where(is_eos(tokens, target.prior.eos).any(), 0.0, evidence.cut(last))
        return jnp.cumsum(increments.at[-1].add(cut.astype(increments.dtype)))

    log_prefix = jnp.zeros(tokens.shape)
    for term in target.terms:
        if isinstance(evidence := term.evidence, PrefixEvidence):
            log_prefix += term.scaled(jax.vmap(lambda y, e=evidence: total(e, y))(tokens))
    return log_prefix
