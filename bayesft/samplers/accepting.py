"""Accepting proposals until every prompt has its draws: what rejection samplers share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from bayesft.base import Claim, Key, Prior
from bayesft.draws import Draws, Status
from bayesft.samplers.plain import MAX_ROWS, Samples, propose_from, sample_keys
from bayesft.samplers.validation import require_count
from bayesft.target import Target

BATCH_SIZES = (64, 512)
"""Proposals per prompt and batch: few sizes, because each is compiled once."""


class Accepted:
    """The first accepted samples of every prompt, in the order in which they were proposed."""

    def __init__(self, target: Target, num_draws: int):
        shape = (len(target.prompts), num_draws)
        self.samples = Samples(
            np.full((*shape, target.horizon.max_new_tokens), target.prior.eos[0], np.int32),
            np.zeros(shape, np.int32),
            np.full(shape, -np.inf, np.float32),
            np.full(shape, -np.inf, np.float32),
        )
        self.count = np.zeros(shape[0], np.int64)
        self.num_proposals = np.zeros(shape[0], np.int64)
        self.num_ended = np.zeros(shape[0], np.int64)
        """Under eos="condition"; else the proposals that the prior can produce."""

    @property
    def num_draws(self) -> int:
        return self.samples.lengths.shape[1]

    @property
    def wanted(self) -> Bool[np.ndarray, " P"]:
        """The prompts that lack draws."""
        return self.count < self.num_draws

    @property
    def filled(self) -> Bool[np.ndarray, "P N"]:
        return np.arange(self.num_draws) < self.count[:, None]

    @property
    def complete(self) -> Bool[np.ndarray, " P"]:
        return self.count == self.num_draws

    @property
    def log_share_ended(self) -> Float[Array, " P"]:
        """Estimates log P(ended) under eos="condition", where the prior proposed."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return jnp.asarray(np.log(self.num_ended / self.num_proposals), jnp.float32)

    def draws(
        self,
        target: Target,
        claim: Claim,
        log_z: Float[Array, " P"] | None,
        log_ended: Float[Array, " P"] | None,
        info: dict[str, Any],
    ) -> Draws:
        """Equally weighted draws; empty slots have log-weight -inf and length 0."""
        counts = {
            "num_proposals": self.num_proposals,
            "acceptance": self.count / self.num_proposals,
        }
        return Draws(
            tokens=jnp.asarray(self.samples.tokens),
            lengths=jnp.asarray(self.samples.lengths),
            log_weights=jnp.where(self.filled, 0.0, -jnp.inf),
            log_prior=jnp.asarray(self.samples.log_prior),
            log_evidence=jnp.asarray(self.samples.log_evidence),
            log_z=log_z,
            status=np.where(self.complete, Status.OK, Status.EXHAUSTED),
            claim=claim,
            prompts=target.prompts.prompts,
            decode=target.prior.decode,
            log_ended=log_ended,
            info=counts | info,
        )

    def add(
        self,
        samples: Samples,
        valid: Bool[np.ndarray, "P B"],
        accept: Bool[np.ndarray, "P B"],
    ) -> None:
        """Keep what is accepted until a prompt has enough; later proposals do not count."""
        slot = self.count[:, None] + np.cumsum(valid & accept, axis=1) - (valid & accept)
        proposed = valid & (slot < self.num_draws)
        kept = proposed & accept
        at = np.nonzero(kept)
        for field in dataclasses.fields(Samples):
            getattr(self.samples, field.name)[at[0], slot[at]] = getattr(samples, field.name)[at]
        self.count += kept.sum(1)
        self.num_proposals += proposed.sum(1)
        self.num_ended += (proposed & ~np.isneginf(samples.log_prior)).sum(1)


def require_max_proposals(max_proposals: int | None, num_draws: int) -> int:
    """The limit on proposals per prompt, or its default."""
    if max_proposals is None:
        return max(100_000, 1000 * num_draws)
    return require_count("max_proposals", max_proposals)


type AcceptanceFn = Callable[
    [Accepted, Bool[np.ndarray, "P B"], Samples, Float[np.ndarray, "P B"]],
    Float[np.ndarray, "P B"],
]
"""What is accepted so far, which samples count, these, and their log γ − log q -> the logarithm of
the acceptance probability, where positive values mean 1."""


def accept(
    target: Target,
    key: Key,
    accepted: Accepted,
    max_proposals: int,
    log_acceptance_fn: AcceptanceFn,
    source: Prior | None = None,
) -> None:
    """Propose from the source (None: the prior) until every prompt has its draws, or the limit."""
    first, num_tokens = 0, target.horizon.max_new_tokens
    while first < max_proposals and (wanted := accepted.wanted).any():
        size = _batch_size(accepted, first, max_proposals)
        samples, log_ratios = propose_from(source, target, key, first, size, wanted)
        valid = wanted[:, None] & (first + np.arange(size) < max_proposals)
        log_acceptance = log_acceptance_fn(accepted, valid, samples, log_ratios)
        log_uniforms = log_uniform(sample_keys(target.xs.id, key, first, size), num_tokens)
        accepted.add(samples, valid, np.asarray(log_uniforms) < log_acceptance)
        first += size


def _batch_size(accepted: Accepted, first: int, max_proposals: int) -> int:
    """The smallest batch that should complete the slowest prompt, going by the last ones."""
    rate = (accepted.count.min() + 1) / (first + 1)
    needed = min(accepted.num_draws / rate, max_proposals) - first
    allowed = [size for size in BATCH_SIZES if size * len(accepted.count) <= MAX_ROWS]
    return next((size for size in allowed if size >= needed), [BATCH_SIZES[0], *allowed][-1])


@jax.jit
def log_uniform(keys: Key, number: int | Array) -> Float[Array, "P B"]:
    """log U(0, 1) for every sample, from its key at a number past what its tokens use."""

    def one(key: Key) -> Array:
        # A float32 uniform is a multiple of 2^-23, too coarse where acceptance is rare: a second
        # one refines it.
        coarse, fine = jax.random.uniform(jax.random.fold_in(key, number), (2,), jnp.float32)
        return jnp.log(coarse + fine * 2.0**-23)

    return jax.vmap(jax.vmap(one))(keys)
