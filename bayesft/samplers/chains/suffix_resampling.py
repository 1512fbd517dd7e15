"""Metropolis–Hastings that keeps a prefix of the sequence and redraws the rest."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from bayesft.base import Key, Prior, Prompt, sequence_lengths
from bayesft.errors import SamplerError
from bayesft.priors.sequence import BoundGuide, normalised
from bayesft.samplers.chains.kernel import (
    Candidates,
    Chains,
    Kernel,
    folded,
    metropolis,
    total_log_prior,
    uniforms,
)
from bayesft.samplers.chains.walk import walk
from bayesft.samplers.proposers import fitting_guide
from bayesft.target import Target


def suffix_resampling(proposal: Prior | BoundGuide | None = None) -> SuffixResampling:
    """Kernel that redraws the tokens from a uniformly chosen position on, EOS included.

    With L(y) the length, i ~ U{0, …, L(y) − 1} and y'_≥i ~ q(· | y_<i, x), y' is accepted with
    probability min(1, r),

        r = φ(y')/φ(y) · L(y)/L(y') · [π0(y'_≥i)/q(y'_≥i)] / [π0(y_≥i)/q(y_≥i)],

    all conditional on y_<i (Hastings 1970; for language models Karan and Du 2025). `proposal` is a
    prior or a guide q; None is the prior itself, for which the last factor is 1. A step costs one
    generation, and with a guide its pass over the current sequence. The proposal must cover the
    target: what it cannot draw, no chain reaches. Raises SamplerError for a proposal that does not
    fit the target.
    """
    if not isinstance(proposal, Prior | BoundGuide | None):
        raise SamplerError(
            f"A {type(proposal).__name__} cannot redraw suffixes.",
            cause="a proposal of SMC, a whole fit or a function was passed as proposal.",
            remedy="pass a prior or a guide (`fitted.guide`, bft.lm.lora(…)), or None.",
        )
    return SuffixResampling(proposal)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SuffixResampling(Kernel):
    """See `suffix_resampling`."""

    proposal: Prior | BoundGuide | None = None

    def bind(self, target: Target) -> SuffixResampling:
        return dataclasses.replace(self, proposal=fitting_guide(target, self.proposal))

    def propose(self, target: Target, xs: Prompt, keys: Key, chains: Chains) -> Candidates:
        prior, horizon, guide = target.prior, target.horizon, self.proposal
        assert not isinstance(guide, BoundGuide)  # `bind` has unwrapped it
        num_tokens = horizon.max_new_tokens
        position = jnp.arange(num_tokens, dtype=jnp.int32)[None, None]
        # The loop folds in the numbers of the tokens, which are below.
        share = uniforms(folded(keys, num_tokens))
        first = jnp.minimum((share * chains.lengths).astype(jnp.int32), chains.lengths - 1)
        free = position >= first[..., None]
        walked = walk(prior, guide, xs, keys, chains.tokens, free, horizon)
        lengths = sequence_lengths(walked.tokens, prior.eos)
        log_weights, log_weight_current = -jnp.log(lengths), -jnp.log(chains.lengths)
        if guide is not None:
            bound = normalised(horizon)
            of_one = jax.vmap(lambda y, x: guide.token_log_probs(y, x, bound), (0, None))
            log_current = jax.vmap(of_one)(chains.tokens, xs)
            log_ratio = walked.log_prior - walked.log_proposal
            log_weights += jnp.where(free, log_ratio, 0.0).sum(-1)
            log_prior_rest = chains.log_prior - jnp.where(free, 0.0, walked.log_prior).sum(-1)
            log_weight_current += log_prior_rest - jnp.where(free, log_current, 0.0).sum(-1)
        return Candidates(
            tokens=walked.tokens[:, :, None],
            lengths=lengths[..., None],
            log_prior=total_log_prior(target, walked.tokens, walked.log_prior)[..., None],
            log_weights=log_weights[..., None],
            log_weight_current=log_weight_current,
        )

    def select(self, keys, log_weights):
        return metropolis(keys, log_weights)
