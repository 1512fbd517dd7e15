"""log P(ended): how much of the prior eos="condition" conditions on."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bayesft.base import Enumerable, Key, Prompt, is_eos
from bayesft.priors.sequence import generate
from bayesft.samplers.plain import sample_keys
from bayesft.sharding import join
from bayesft.target import Target

MAX_OUTCOMES = 1 << 16
"""Listing more sequences would cost more than the sampling that this is reported beside."""

_OWN_STREAM = 1 << 31
"""Folded into the key where samplers fold in prompt ids, which are below."""


def log_ended(
    target: Target, estimate: Callable[[], Float[Array, " P"]]
) -> Float[Array, " P"] | None:
    """log P(y ends within the horizon | x) in nats under `condition`, else None.

    Exact where the prior can be listed quickly, else what `estimate` returns.
    """
    if target.horizon.eos_policy != "condition":
        return None
    prior, num_tokens = target.prior, target.horizon.max_new_tokens
    if not isinstance(prior, Enumerable) or prior.vocab_size**num_tokens > MAX_OUTCOMES:
        return estimate()
    return _log_mass(target, target.xs, jnp.asarray(prior.enumerate(num_tokens)))


def estimate_log_ended(target: Target, key: Key, num_samples: int) -> Float[Array, " P"]:
    """log of the share of `num_samples` samples of the prior that end; -inf where none did."""
    key = jax.random.fold_in(key, _OWN_STREAM)
    return _log_share(target, target.xs, sample_keys(target.xs.id, key, 0, num_samples))


@jax.jit
def _log_mass(target: Target, xs: Prompt, rows: Int[Array, "M T"]) -> Float[Array, " P"]:
    # Under `condition`, the target's log-prior is -inf for sequences that do not end.
    log_probs = jax.vmap(jax.vmap(target.log_prior, (0, None)), (None, 0))(rows, xs)
    return jax.nn.logsumexp(log_probs, axis=-1)


@jax.jit
def _log_share(target: Target, xs: Prompt, keys: Key) -> Float[Array, " P"]:
    tokens, _ = generate(target.prior, xs, keys, target.horizon)
    return jnp.log(is_eos(join(tokens), target.prior.eos).any(-1).mean(-1))
