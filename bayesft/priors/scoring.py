"""Log-probs and evidence of many known sequences, in jitted calls of one shape."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bayesft.base import Horizon, Prior, Prompt, sequence_lengths
from bayesft.sharding import join, split
from bayesft.target import Target

_TOKENS_PER_CALL = 1 << 14
"""Enough to fill a CPU's vector units; a decoder's activations for them stay near 100 MB."""


def log_probs(
    prior: Prior, tokens: Int[np.ndarray, "P N T"], xs: Prompt, horizon: Horizon
) -> Float[np.ndarray, "P N"]:
    """Normalised log-prob of each completion under a prior or guide, teacher-forced, in nats."""
    return _in_chunks(lambda chunk: _log_probs(prior, chunk, xs, horizon), tokens)


def log_evidence(target: Target, tokens: Int[np.ndarray, "P N T"]) -> Float[np.ndarray, "P N"]:
    """log φ of each completion of the target's prompts; Python evidence is called once for all."""
    total = _in_chunks(lambda chunk: _log_device_evidence(target, chunk, target.xs), tokens)
    if target.host_terms:
        rows = tokens.reshape(-1, tokens.shape[-1])
        ids = np.repeat(np.asarray(target.xs.id), tokens.shape[1])
        lengths = np.asarray(sequence_lengths(jnp.asarray(rows), target.prior.eos))
        values = target.evaluate_host(ids, rows, lengths)
        for term in target.host_terms:
            total += np.asarray(term.scaled(jnp.asarray(values[term.evidence.name]))).reshape(
                total.shape
            )
    return total


@functools.partial(jax.jit, static_argnames="horizon")
def _log_probs(prior: Prior, tokens: Array, xs: Prompt, horizon: Horizon):
    def one(x, y):
        return prior.token_log_probs(y, x, horizon).sum()

    # Nested, so that a prompt's own pass, where a prior makes one, runs once per prompt.
    return join(jax.vmap(lambda x, ys: jax.vmap(lambda y: one(x, y))(ys))(xs, split(tokens)))


@jax.jit
def _log_device_evidence(target: Target, tokens: Array, xs: Prompt):
    of_one = jax.vmap(target.log_device_evidence, (0, None))
    return join(jax.vmap(of_one)(split(tokens), xs))


def _in_chunks(
    fn: Callable[[Array], Array], tokens: Int[np.ndarray, "P N T"]
) -> Float[np.ndarray, "P N"]:
    num_prompts, num_rows, num_tokens = tokens.shape
    size = min(num_rows, max(1, _TOKENS_PER_CALL // (num_prompts * num_tokens)))
    short = -num_rows % size
    # The last chunk repeats a row to keep the shape, and with it the trace.
    padded = np.concatenate([tokens, np.repeat(tokens[:, -1:], short, axis=1)], axis=1)
    chunks = [
        np.asarray(fn(jnp.asarray(padded[:, at : at + size])), np.float64)
        for at in range(0, num_rows + short, size)
    ]
    return np.concatenate(chunks, axis=1)[:, :num_rows]
