"""Quasi-rejection sampling: rejection without a bound that holds, and its distance estimated."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float

from bayesft.base import Claim, Key, Prior, Sampler
from bayesft.draws import Draws
from bayesft.errors import SamplerError
from bayesft.priors.sequence import BoundGuide
from bayesft.samplers.accepting import Accepted, accept, require_max_proposals
from bayesft.samplers.ended import estimate_log_ended, log_ended
from bayesft.samplers.proposers import fitting_guide
from bayesft.samplers.quasi_rejection_diagnostics import estimates, require_log_beta
from bayesft.samplers.validation import require_count
from bayesft.target import Target


def quasi_rejection(
    num_draws: int,
    log_beta: Float[ArrayLike, " P"] | float,
    proposal: Prior | BoundGuide | None = None,
    max_proposals: int | None = None,
) -> QuasiRejection:
    """Draws of p_β(y | x) ∝ min(γ(y, x), β·q(y | x)), γ = π0·φ, which is p* where γ ≤ β·q holds.

    y ~ q is accepted with probability min(1, γ(y, x)/(β·q(y | x))): rejection with a constant that
    need not bound anything. The larger β, the closer to p* and the fewer are accepted;
    `choose_log_beta` and `quasi_rejection_diagnostics` tell how close, from the `log_weights` of
    `importance` with the same proposal. `log_beta` in nats is one number or one per prompt.

    The proposal q is the prior (the default; then γ/q = φ) or a guide. Where it has no mass and p*
    has, p_β has none either, and neither draws nor estimates can show it: use a proposal with the
    support of the prior, or mix it with the prior.

    Proposals come in batches until every prompt has accepted `num_draws`, or has made
    `max_proposals` (default: the larger of 100 000 and 1000 per draw). Then its status is
    EXHAUSTED: what was accepted stays, and its empty slots have log-weight -inf and length 0.

    `log_z` estimates Z (not Z_β) by the mean of γ/q over the proposals ahead of the last one
    accepted, which makes it unbiased; with one draw it is None. `info` has `num_proposals`,
    `acceptance` [P], those proposals' `log_ratios` (a list of P arrays), and from them `tvd`,
    `tvd_error`, `kl` and `kl_error` [P], NaN where none met the target.

    Raises SamplerError where β is not positive and finite, and for a proposal that does not fit.

    Eikema, Kruszewski, Dance, Elsahar and Dymetman 2022, TMLR.
    """
    beta = require_log_beta(log_beta)
    if beta.ndim > 1:
        raise SamplerError(
            f"log_beta has the shape {beta.shape}.",
            cause="one β per draw; it is one per prompt at most.",
            remedy="give one number, or an array [P].",
        )
    if not isinstance(proposal, Prior | BoundGuide | None):
        raise SamplerError(
            f"A {type(proposal).__name__} cannot propose whole sequences with their density.",
            cause="a fit, a function, or a proposal that depends on the target was passed.",
            remedy="pass a prior or a guide: `fitted.guide`, bft.lm.lora(…), or None.",
        )
    num_draws = require_count("num_draws", num_draws)
    return QuasiRejection(
        num_draws=num_draws,
        log_beta=float(beta) if beta.ndim == 0 else tuple(beta.tolist()),
        proposal=proposal,
        max_proposals=require_max_proposals(max_proposals, num_draws),
    )


@dataclasses.dataclass(frozen=True)
class QuasiRejection(Sampler):
    """See `quasi_rejection`."""

    num_draws: int
    log_beta: float | tuple[float, ...]
    proposal: Prior | BoundGuide | None
    max_proposals: int

    @property
    def claim(self) -> Claim:
        return Claim("another law", "independent draws of p_β ∝ min(π0·φ, β·q)")

    def run(self, target: Target, key: Key) -> Draws:
        log_beta = self._log_betas(target)
        source = fitting_guide(target, self.proposal)
        batches: list[np.ndarray] = []

        def log_acceptance(accepted, valid, samples, log_ratios):
            batches.append(log_ratios)
            return log_ratios - log_beta[:, None]

        accepted = Accepted(target, self.num_draws)
        accept(target, key, accepted, self.max_proposals, log_acceptance, source)
        # Given how many it took, the last is accepted for certain; the others are as they come.
        counted = accepted.num_proposals - accepted.complete
        every = np.concatenate(batches, axis=1, dtype=np.float64)
        log_ratios = [row[:n] for row, n in zip(every, counted, strict=True)]
        log_z = np.asarray([_log_mean_exp(row) for row in log_ratios], np.float32)

        def share_ended():
            if source is not None:
                return estimate_log_ended(target, key, self.num_draws)
            return accepted.log_share_ended

        return accepted.draws(
            target,
            self.claim,
            log_z=None if self.num_draws == 1 else jnp.asarray(log_z),
            log_ended=log_ended(target, share_ended),
            info={"log_ratios": log_ratios, **_distances(log_ratios, log_beta)},
        )

    def _log_betas(self, target: Target) -> Float[np.ndarray, " P"]:
        beta, num_prompts = np.asarray(self.log_beta), len(target.prompts)
        if beta.ndim and beta.size != num_prompts:
            raise SamplerError(
                f"log_beta has {beta.size} values for {num_prompts} prompts.",
                cause="they were chosen for another list of prompts.",
                remedy="give one number, or one per prompt of this target.",
            )
        return np.broadcast_to(beta, (num_prompts,))


def _distances(log_ratios: list[np.ndarray], log_beta: Float[np.ndarray, " P"]) -> dict[str, Any]:
    """TVD and KL of the law from p*, by prompt."""
    names = ("tvd", "tvd_error", "kl", "kl_error")
    values = np.full((len(names), len(log_ratios)), np.nan)
    for p, row in enumerate(log_ratios):
        if row.size > 1 and not np.isneginf(row).all():
            found = estimates(row, float(log_beta[p]))
            values[:, p] = [found[name] for name in names]
    return dict(zip(names, values, strict=True))


def _log_mean_exp(row: Float[np.ndarray, " n"]) -> float:
    return float(np.logaddexp.reduce(row, initial=-np.inf) - np.log(max(row.size, 1)))
