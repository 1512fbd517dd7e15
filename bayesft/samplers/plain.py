"""Plain samples of the prior, or of a proposal, with their evidence, numbered per prompt.

Sample number i of a prompt depends on the key, the prompt's id and i alone, so that neither the
size of a batch nor the other prompts in it change what is drawn.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from bayesft.base import Key, Prior, Prompt, is_eos, sequence_lengths
from bayesft.priors import scoring
from bayesft.priors.sequence import generate, normalised
from bayesft.samplers.validation import require_log_densities
from bayesft.sharding import join, require_split
from bayesft.target import Target

MAX_ROWS = 1024
"""Sequences in one batch over all prompts, unless the smallest batch has more: enough to keep a
processor busy, few enough for a language model's caches."""


@dataclasses.dataclass(frozen=True)
class Samples:
    """B samples for every prompt, on the host; log-densities in nats.

    Where a sample is impossible under the target, `log_evidence` is -inf: Python evidence is not
    asked what cannot matter.
    """

    tokens: Int[np.ndarray, "P B T"]
    lengths: Int[np.ndarray, "P B"]
    log_prior: Float[np.ndarray, "P B"]
    log_evidence: Float[np.ndarray, "P B"]

    def take(self, index: Int[np.ndarray, "P N"]) -> Samples:
        """For every prompt the samples at these places."""

        def pick(a: np.ndarray) -> np.ndarray:
            return np.take_along_axis(a, index.reshape(*index.shape, *(1,) * (a.ndim - 2)), 1)

        return Samples(*map(pick, vars(self).values()))

    @classmethod
    def join(cls, batches: list[Samples], size: int) -> Samples:
        """The first `size` samples of consecutive batches."""
        fields = zip(*(vars(batch).values() for batch in batches), strict=True)
        return cls(*(np.concatenate(parts, axis=1)[:, :size] for parts in fields))


def propose(
    target: Target, key: Key, first: int, size: int, wanted: Bool[np.ndarray, " P"] | None = None
) -> Samples:
    """Samples number first, …, first + size - 1 of every prompt, in one jitted loop.

    Python evidence is called once for all rows of the prompts that are `wanted` (None: all); the
    values of the other prompts lack it. Raises EvidenceError where evidence is NaN or +inf.
    """
    return propose_from(None, target, key, first, size, wanted)[0]


def propose_from(
    source: Prior | None,
    target: Target,
    key: Key,
    first: int,
    size: int,
    wanted: Bool[np.ndarray, " P"] | None = None,
) -> tuple[Samples, Float[np.ndarray, "P B"]]:
    """As `propose`, from a proposal q (None: the prior), with log γ − log q of every sample.

    Both are -inf where γ = π0·φ is 0. The prior's own part of the ratio is exactly 0.
    """
    require_split(len(target.prompts), size, "samples")
    keys = sample_keys(target.xs.id, key, first, size)
    tokens, lengths, ended, log_source, log_device = map(
        np.array, _propose(target, source or target.prior, target.xs, keys)
    )
    log_prior = log_source
    if source is not None:
        horizon = normalised(target.horizon)
        log_prior = scoring.log_probs(target.prior, tokens, target.xs, horizon)
    log_model = (log_prior - log_source).astype(np.float32)
    if target.horizon.eos_policy == "condition":
        log_prior = np.where(ended, log_prior, -np.inf)
    log_prior = log_prior.astype(np.float32)
    impossible = np.isneginf(log_prior) | np.isneginf(log_device)
    log_evidence = np.where(impossible, -np.inf, log_device).astype(np.float32)
    asked = ~impossible if wanted is None else ~impossible & wanted[:, None]
    if target.host_terms and asked.any():
        ids = np.broadcast_to(np.asarray(target.xs.id)[:, None], asked.shape)
        values = target.evaluate_host(ids[asked], tokens[asked], lengths[asked])
        for term in target.host_terms:
            log_evidence[asked] += np.asarray(term.scaled(jnp.asarray(values[term.evidence.name])))
    require_log_densities(target, log_prior, log_evidence, log_model)
    return Samples(tokens, lengths, log_prior, log_evidence), log_model + log_evidence


@partial(jax.jit, static_argnames="size")
def sample_keys(ids: Int[Array, " P"], key: Key, first: int | Array, size: int) -> Key:
    """Keys [P, size] of the samples number first, first + 1, … of every prompt."""
    numbers = first + jnp.arange(size, dtype=jnp.int32)
    fold_in = jax.random.fold_in
    prompt_keys = jax.vmap(lambda prompt_id: fold_in(key, prompt_id))(ids)
    return jax.vmap(lambda k: jax.vmap(lambda i: fold_in(k, i))(numbers))(prompt_keys)


@jax.jit
def _propose(target: Target, source: Prior, xs: Prompt, keys: Key) -> tuple[Array, ...]:
    tokens, log_probs = generate(source, xs, keys, target.horizon)

    def score(tokens: Array, log_probs: Array, x: Prompt) -> tuple[Array, Array, Array, Array]:
        length = sequence_lengths(tokens, target.prior.eos)
        ended = is_eos(tokens, target.prior.eos).any()
        log_source = log_probs.sum(dtype=jnp.result_type(float))
        return length, ended, log_source, target.log_device_evidence(tokens, x)

    return join((tokens, *jax.vmap(jax.vmap(score, (0, 0, None)))(tokens, log_probs, xs)))
