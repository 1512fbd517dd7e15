"""Completions with every log-prob that a certificate needs of them."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from bayesft.base import Horizon, Key, Prior, Prompt, is_eos
from bayesft.priors import scoring
from bayesft.priors.sequence import generate, normalised
from bayesft.samplers.plain import sample_keys
from bayesft.samplers.validation import require_log_densities
from bayesft.sharding import join
from bayesft.target import Target

_LANES = 512
"""Sequences generated at a time over all prompts: their caches have to fit into memory."""


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """n completions per prompt, [P, n] each, in nats (float64)."""

    log_density: Float[np.ndarray, "P n"]
    """log π0 + log φ; -inf where the target is impossible."""
    log_prior: Float[np.ndarray, "P n"]
    """Normalised: under eos="condition", cut sequences have one too."""
    log_guide: Float[np.ndarray, "P n"]
    log_explorer: Float[np.ndarray, "P n"]
    """Of the distribution that proposes beside the prior: the guide, unless another is given."""

    @property
    def log_mixture(self) -> Float[np.ndarray, "P n"]:
        """log of the even mixture of explorer and prior."""
        return np.logaddexp(self.log_explorer, self.log_prior) - np.log(2.0)

    @property
    def log_weight(self) -> Float[np.ndarray, "P n"]:
        """log γ − log mixture, -inf where the target is impossible."""
        possible = self.log_density > -np.inf
        return np.where(
            possible, self.log_density - np.where(possible, self.log_mixture, 0), -np.inf
        )


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """The distributions of a certificate, with what is known about samples of each."""

    target: Target
    guide: Prior
    explorer: Prior

    @property
    def horizon(self) -> Horizon:
        return normalised(self.target.horizon)

    def sample(self, source: Prior, key: Key, size: int) -> Evaluated:
        """`size` samples of one of the distributions for every prompt."""
        tokens, log_probs = self.generate(source, key, size)
        return self.evaluate(tokens, known={id(source): log_probs})

    def generate(
        self, source: Prior, key: Key, size: int
    ) -> tuple[Int[np.ndarray, "P n T"], Float[np.ndarray, "P n"]]:
        """Tokens of `size` samples for every prompt, with their log-probs under the source."""
        lanes = min(size, max(1, _LANES // len(self.target.prompts)))
        parts = [
            _generate(source, self.target.xs, key, first, lanes, self.horizon)
            for first in range(0, size, lanes)
        ]
        tokens, log_probs = (
            np.concatenate([np.asarray(part[i]) for part in parts], axis=1)[:, :size]
            for i in (0, 1)
        )
        return tokens, np.asarray(log_probs, np.float64)

    def evaluate(
        self,
        tokens: Int[np.ndarray, "P n T"],
        log_evidence: Float[np.ndarray, "P n"] | None = None,
        known: dict[int, Float[np.ndarray, "P n"]] | None = None,
    ) -> Evaluated:
        """Score completions under every distribution; what is known already is not computed."""
        known = dict(known or {})
        for prior in (self.target.prior, self.guide, self.explorer):
            if id(prior) not in known:
                known[id(prior)] = scoring.log_probs(prior, tokens, self.target.xs, self.horizon)
        log_prior = known[id(self.target.prior)]
        if log_evidence is None:
            log_evidence = scoring.log_evidence(self.target, tokens)
        log_density = np.where(self._allowed(tokens), log_prior + log_evidence, -np.inf)
        require_log_densities(self.target, jnp.asarray(log_prior), jnp.asarray(log_evidence))
        return Evaluated(log_density, log_prior, known[id(self.guide)], known[id(self.explorer)])

    def _allowed(self, tokens: Int[np.ndarray, "P n T"]) -> Bool[np.ndarray, "P n"]:
        if self.target.horizon.eos_policy != "condition":
            return np.ones(tokens.shape[:2], bool)
        return np.asarray(is_eos(jnp.asarray(tokens), self.target.prior.eos)).any(-1)


@functools.partial(jax.jit, static_argnames=("size", "horizon"))
def _generate(
    source: Prior, xs: Prompt, key: Key, first: int, size: int, horizon: Horizon
) -> tuple[Array, Array]:
    tokens, token_log_probs = generate(source, xs, sample_keys(xs.id, key, first, size), horizon)
    return join((tokens, token_log_probs.sum(-1)))
