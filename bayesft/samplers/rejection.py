"""Rejection sampling: exact draws of the target where its evidence is bounded."""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from bayesft.base import Claim, Key, Sampler
from bayesft.draws import Draws
from bayesft.errors import SamplerError
from bayesft.samplers.accepting import Accepted, accept, require_max_proposals
from bayesft.samplers.ended import log_ended
from bayesft.samplers.plain import Samples
from bayesft.samplers.validation import require_count
from bayesft.target import Target


def rejection(
    num_draws: int, log_bound: float | None = None, max_proposals: int | None = None
) -> Rejection:
    """Exact draws: a prior sample y is accepted with probability exp(log φ(y, x) − log_bound).

    `log_bound` in nats is at least the largest log-potential; the default is the upper bound that
    the evidence declares. Proposals come in jitted batches until every prompt has accepted
    `num_draws`, of which the first are kept, or has made `max_proposals` (default: the larger of
    100 000 and 1000 per draw). Then its status is EXHAUSTED: what was accepted stays, and its empty
    slots have log-weight -inf and length 0.

    Ẑ = exp(log_bound)·(r − 1)/(n − 1), n the proposals that r = num_draws acceptances took, is
    unbiased where r/n is not (Haldane 1945); an exhausted prompt has r/n. One draw gives no usable
    estimate: log_z is None. `info` has `num_proposals` and `acceptance` (r/n), both [P].

    Raises SamplerError where the bound is infinite, or where evidence exceeds it: the message says
    by how much, and which draws and estimates that invalidates.
    """
    if log_bound is not None and math.isnan(log_bound):
        raise SamplerError(
            "log_bound is NaN.",
            cause="the logarithm of a negative number.",
            remedy="give the largest value that the log-potential can take, in nats.",
        )
    num_draws = require_count("num_draws", num_draws)
    return Rejection(num_draws, log_bound, require_max_proposals(max_proposals, num_draws))


@dataclasses.dataclass(frozen=True)
class Rejection(Sampler):
    """See `rejection`."""

    num_draws: int
    log_bound: float | None
    max_proposals: int

    @property
    def claim(self) -> Claim:
        return Claim("exact draws", "independent draws of p*, given that the bound holds")

    def run(self, target: Target, key: Key) -> Draws:
        log_bound = self._finite_bound(target)

        def log_acceptance(
            accepted: Accepted, valid: Bool[np.ndarray, "P B"], samples: Samples, _
        ) -> Float[np.ndarray, "P B"]:
            _require_bound(np.where(valid, samples.log_evidence, -np.inf), log_bound, accepted)
            return samples.log_evidence - log_bound

        accepted = Accepted(target, self.num_draws)
        accept(target, key, accepted, self.max_proposals, log_acceptance)
        return self._draws(target, accepted, log_bound)

    def _finite_bound(self, target: Target) -> float:
        bound = target.evidence.bounds[1] if self.log_bound is None else self.log_bound
        if not math.isfinite(bound):
            raise SamplerError(
                f"Rejection needs a finite upper bound of the log-potential, not {bound}.",
                cause="evidence that declares no bounds, and no log_bound given.",
                remedy="declare bounds (bft.evidence.reward(…, bounds=(low, high))) or pass "
                "log_bound in nats.",
            )
        return float(bound)

    def _draws(self, target: Target, accepted: Accepted, log_bound: float) -> Draws:
        count, num_proposals = accepted.count, accepted.num_proposals
        with np.errstate(divide="ignore", invalid="ignore"):
            haldane = (count - 1) / (num_proposals - 1)
            share = np.where(accepted.complete, haldane, count / num_proposals)
            log_z = log_bound + np.log(share)
        return accepted.draws(
            target,
            self.claim,
            log_z=None if self.num_draws == 1 else jnp.asarray(log_z, jnp.float32),
            log_ended=log_ended(target, lambda: accepted.log_share_ended),
            info={},
        )


def _require_bound(
    log_evidence: Float[np.ndarray, "P B"], log_bound: float, accepted: Accepted
) -> None:
    largest = float(log_evidence.max(initial=-np.inf))
    rounding = 1e-6 * max(1.0, abs(log_bound))
    if largest <= log_bound + rounding:
        return
    prompt = int(log_evidence.max(1).argmax())
    num_draws = int(accepted.count[prompt])
    raise SamplerError(
        f"A log-potential of {largest:.6g} nats exceeds the bound {log_bound:.6g} by "
        f"{largest - log_bound:.3g}, for prompt {prompt}. This invalidates the {num_draws} draws "
        "accepted for it so far (none is returned), and every earlier draw of it, log Z and "
        "certificate that rests on this bound: they are of π0·min(φ, exp(bound)), not of p*, and "
        "such a log Z is too small on average.",
        cause="log_bound, or the bounds that the evidence declares, are too small.",
        remedy=f"pass log_bound={math.ceil(largest)} or more and draw again; or accept the other "
        "law, with its distance from p* estimated, by quasi_rejection.",
    )
