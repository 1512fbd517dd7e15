"""The enumeration oracle: every outcome of a small target, with exact numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float, Int

from bayesft.base import Claim, Prior, Prompt, is_eos, sequence_lengths
from bayesft.draws import Draws, Status
from bayesft.priors import scoring
from bayesft.priors.sequence import normalised
from bayesft.priors.stepped import enumerate_sequences
from bayesft.target import Target


@dataclasses.dataclass(frozen=True)
class Enumeration:
    """Every outcome of a target for one prompt, with exact numbers in nats (float64)."""

    tokens: Int[np.ndarray, "M T"]
    lengths: Int[np.ndarray, " M"]
    log_prior: Float[np.ndarray, " M"]
    """Sums to less than 1 under eos="condition", where cut sequences have none."""
    log_evidence: Float[np.ndarray, " M"]
    log_probs: Float[np.ndarray, " M"]
    """Normalised posterior; -inf for what is impossible, and throughout where Z = 0."""
    log_z: float
    log_ended: float
    """log P(ended) under the prior."""
    target: Target = dataclasses.field(repr=False)
    """The target, for this prompt alone."""

    @property
    def x(self) -> Prompt:
        """The prompt."""
        return jax.tree.map(lambda a: a[0], self.target.xs)

    def mean(self, fn: Callable[..., Any] | ArrayLike) -> np.ndarray:
        """E_p*[f] for `fn(tokens [T], length)` in JAX, or for known values [M, ...]."""
        found = jax.vmap(fn)(self.tokens, self.lengths) if callable(fn) else fn
        values = np.asarray(found, np.float64)
        possible = self.log_probs > -np.inf
        return np.tensordot(np.exp(self.log_probs[possible]), values[possible], axes=1)

    @property
    def draws(self) -> Draws:
        """The M outcomes as draws of one prompt, weighted by their exact densities."""
        log_density = self.log_prior + self.log_evidence
        # The mean over the M outcomes is Z.
        log_weights = log_density + math.log(len(self.tokens))
        return Draws(
            tokens=self.tokens[None],  # pyright: ignore[reportArgumentType]
            lengths=self.lengths[None],  # pyright: ignore[reportArgumentType]
            log_weights=log_weights[None],  # pyright: ignore[reportArgumentType]
            log_prior=self.log_prior[None],  # pyright: ignore[reportArgumentType]
            log_evidence=self.log_evidence[None],  # pyright: ignore[reportArgumentType]
            log_z=np.asarray([self.log_z]),  # pyright: ignore[reportArgumentType]
            status=np.asarray([Status.OK if self.log_z > -math.inf else Status.ALL_DEAD]),
            claim=Claim("exact", "every outcome, weighted by its density"),
            prompts=self.target.prompts.prompts,
            decode=self.target.prior.decode,
            log_ended=None,
        )

    def log_probs_of(self, guide: Prior) -> Float[np.ndarray, " M"]:
        """Log-prob of every outcome under a guide that is bound to the target's horizon."""
        horizon = normalised(self.target.horizon)
        return scoring.log_probs(guide, self.tokens[None], self.target.xs, horizon)[0]

    def reverse_kl(self, guide: Prior) -> float:
        """KL(q ‖ p*)."""
        return _divergence(self.log_probs_of(guide), self.log_probs)

    def forward_kl(self, guide: Prior) -> float:
        """KL(p* ‖ q)."""
        return _divergence(self.log_probs, self.log_probs_of(guide))


def enumerate_target(target: Target, prompt: int = 0) -> Enumeration:
    """Every outcome of a target for its prompt of index `prompt`, by listing its prior's sequences.

    Under "truncate" the M outcomes include cut sequences; under "condition" these have prior and
    posterior -inf, so that log_z sums φ·π0 over ended ones; under "force" they end at the limit.
    Time and memory are linear in M·T; 1e5 outcomes take seconds.

    Raises NotEnumerableError where the prior's sequences cannot be listed.
    """
    target = target.select([prompt])
    tokens = enumerate_sequences(target.prior, target.horizon)
    horizon = normalised(target.horizon)
    log_prior = scoring.log_probs(target.prior, tokens[None], target.xs, horizon)[0]
    ended = np.asarray(is_eos(jnp.asarray(tokens), target.prior.eos)).any(-1)
    if target.horizon.eos_policy == "condition":
        log_prior = np.where(ended, log_prior, -np.inf)
    log_evidence = scoring.log_evidence(target, tokens[None])[0]
    log_density = log_prior + log_evidence
    log_z = _log_sum_exp(log_density)
    return Enumeration(
        tokens=tokens,
        lengths=np.asarray(sequence_lengths(jnp.asarray(tokens), target.prior.eos)),
        log_prior=log_prior,
        log_evidence=log_evidence,
        log_probs=log_density - log_z if log_z > -math.inf else np.full_like(log_prior, -np.inf),
        log_z=log_z,
        log_ended=_log_sum_exp(log_prior[ended]),
        target=target,
    )


def _divergence(log_p: Float[np.ndarray, " M"], log_q: Float[np.ndarray, " M"]) -> float:
    support = log_p > -np.inf
    return float(np.sum(np.exp(log_p[support]) * (log_p[support] - log_q[support])))


def _log_sum_exp(values: Float[np.ndarray, " M"]) -> float:
    return float(np.logaddexp.reduce(values, initial=-np.inf))
