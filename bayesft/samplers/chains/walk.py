"""Sequences of which some tokens are given and the others drawn, in one decoding loop."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bayesft.base import Horizon, Key, Prior, Prompt, is_eos
from bayesft.priors.sequence import inverse_cdf
from bayesft.sharding import join


class Walk(NamedTuple):
    """N sequences per prompt with their log-probs in nats, 0 on padding."""

    tokens: Int[Array, "P N T"]
    log_prior: Float[Array, "P N T"]
    log_proposal: Float[Array, "P N T"]
    """Of every token, drawn or given, under what would have drawn it."""


def walk(
    prior: Prior,
    guide: Prior | None,
    xs: Prompt,
    keys: Key,  # [P, N]
    given: Int[Array, "P N T"],
    free: Bool[Array, "P N T"],
    horizon: Horizon,
    unending: Bool[Array, "P N T"] | None = None,
) -> Walk:
    """Token t is drawn from the guide (None: the prior) where `free`, and else the given one.

    Given tokens are padded after their end. Where `unending`, the proposal is renormalised over
    the tokens that do not end the sequence. The loop leaves as soon as every sequence has ended.
    """
    num_tokens, eos = horizon.max_new_tokens, prior.eos
    models = (prior.prepared(),) if guide is None else (prior.prepared(), guide.prepared())
    started = [model.start(xs, keys.shape[1], num_tokens) for model in models]
    states, logits = tuple(s for s, _ in started), tuple(each for _, each in started)
    uniform = jax.vmap(jax.vmap(lambda key, t: jax.random.uniform(jax.random.fold_in(key, t))))

    def at(a: Array, t: Array) -> Array:
        return jax.lax.dynamic_index_in_dim(a, t, 2, keepdims=False)

    def choose(t: Array, logits: tuple[Array, ...], done: Array, so_far: Walk):
        target = horizon.constrain(_wide(logits[0]), t, eos)
        proposal = horizon.constrain(_wide(logits[-1]), t, eos)
        if unending is not None:
            proposal = jnp.where(at(unending, t)[..., None], _without_end(proposal, eos), proposal)
        drawn, _ = join(inverse_cdf(uniform(keys, jnp.full(keys.shape, t)), proposal))
        token = jnp.where(at(free, t), drawn, at(given, t))
        token = jnp.where(done, eos[0], token)

        def put(a: Array, value: Array) -> Array:
            return jax.lax.dynamic_update_index_in_dim(a, value, t, 2)

        so_far = Walk(
            put(so_far.tokens, token),
            put(so_far.log_prior, jnp.where(done, 0.0, log_prob_of(token, target))),
            put(so_far.log_proposal, jnp.where(done, 0.0, log_prob_of(token, proposal))),
        )
        return done | is_eos(token, eos), so_far

    def going(carry):
        return (carry[0] < num_tokens) & ~carry[2].all()

    def body(carry):
        t, states, done, so_far = carry
        last = at(so_far.tokens, t - 1)
        pairs = zip(models, states, strict=True)
        stepped = [model.advance(state, last) for model, state in pairs]
        logits = tuple(each for _, each in stepped)
        return t + 1, tuple(s for s, _ in stepped), *choose(t, logits, done, so_far)

    zeros = jnp.zeros(given.shape, jnp.promote_types(logits[0].dtype, jnp.float32))
    empty = Walk(jnp.full(given.shape, eos[0], jnp.int32), zeros, zeros)
    first = choose(jnp.int32(0), logits, jnp.zeros(keys.shape, bool), empty)
    return jax.lax.while_loop(going, body, (jnp.int32(1), states, *first))[-1]


def log_prob_of(
    token: Int[Array, "*batch"], logits: Float[Array, "*batch V"]
) -> Float[Array, "*batch"]:
    chosen = jnp.take_along_axis(logits, token[..., None], -1)[..., 0]
    return join(chosen - jax.nn.logsumexp(logits, axis=-1))


def _without_end(logits: Float[Array, "*batch V"], eos: tuple[int, ...]) -> Array:
    """Logits without EOS; uniform where the model gives no other token a chance, so that the
    candidate is impossible under the prior but no number is NaN."""
    ends = is_eos(jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1), eos)
    others = jnp.where(ends, -jnp.inf, logits)
    nothing = others.max(-1, keepdims=True) == -jnp.inf
    return jnp.where(nothing, jnp.where(ends, -jnp.inf, 0.0), others)


def _wide(logits: Array) -> Array:
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
