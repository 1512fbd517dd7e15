"""How well the rest of the current sequence continues what other particles have drawn so far."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bayesft.base import Prompt
from bayesft.samplers.chains.kernel import Chains
from bayesft.target import Target


def log_gain(
    target: Target,
    xs: Prompt,
    chains: Chains,
    t: Int[Array, ""],
    tokens: Int[Array, "P C N T"],
    done: Bool[Array, "P C N"],
    log_so_far: Float[Array, "P C N"],
) -> Float[Array, "P C N"]:
    """log γ(y_<t of n ⊕ tokens of the chain from t on) − log γ_t(y_<t of n) in nats, γ = π0·φ.

    `log_so_far` is log γ_t: the prior and the prefix evidence of the first t tokens. A sequence
    that has ended is continued by padding alone: where a particle has ended and the chain's
    sequence has not, or the other way round, the gain is -inf. (Lindsten, Jordan and Schön 2014,
    equation 10, for models without the Markov property.)
    """
    position = jax.lax.broadcasted_iota(jnp.int32, tokens.shape, 3)
    joined = jnp.where(position < t, tokens, chains.tokens[:, :, None])

    def score(tokens: Array, x: Prompt) -> tuple[Array, Array]:
        return target.log_prior(tokens, x), target.log_device_evidence(tokens, x)

    of_one = jax.vmap(jax.vmap(score, (0, None)), (0, None))
    log_prior, log_evidence = jax.vmap(of_one)(joined, xs)
    fits = done == (chains.lengths <= t)[..., None]
    possible = fits & (log_prior != -jnp.inf) & (log_so_far != -jnp.inf)
    gain = jnp.where(possible, log_prior, 0.0) - jnp.where(possible, log_so_far, 0.0)
    return jnp.where(possible, gain + log_evidence, -jnp.inf)
