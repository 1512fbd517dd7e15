"""Rejection sampling: exact draws of the target where its evidence is bounded."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from bayesft.base import Claim, Key, Sampler
from bayesft.draws import Draws, Status
from bayesft.errors import SamplerError
from bayesft.samplers.ended import log_ended
from bayesft.samplers.plain import MAX_ROWS, Samples, propose, sample_keys
from bayesft.samplers.validation import require_count
from bayesft.target import Target

BATCH_SIZES = (64, 512)
"""Proposals per prompt and batch: few sizes, because each is compiled once."""


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

    Raises SamplerError where the bound is infinite or where evidence exceeds it.
    """
    if log_bound is not None and math.isnan(log_bound):
        raise SamplerError(
            "log_bound is NaN.",
            cause="the logarithm of a negative number.",
            remedy="give the largest value that the log-potential can take, in nats.",
        )
    num_draws = require_count("num_draws", num_draws)
    if max_proposals is None:
        max_proposals = max(100_000, 1000 * num_draws)
    return Rejection(num_draws, log_bound, require_count("max_proposals", max_proposals))


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
        accepted = _Accepted(target, self.num_draws)
        first = 0
        while first < self.max_proposals and (wanted := accepted.wanted).any():
            size = self._batch_size(accepted, first)
            samples = propose(target, key, first, size, wanted)
            valid = wanted[:, None] & (first + np.arange(size) < self.max_proposals)
            _require_bound(samples.log_evidence[valid], log_bound)
            keys = sample_keys(target.xs.id, key, first, size)
            log_uniform = np.asarray(_log_uniform(keys, target.horizon.max_new_tokens))
            accepted.add(samples, valid, log_uniform < samples.log_evidence - log_bound)
            first += size
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

    def _batch_size(self, accepted: _Accepted, first: int) -> int:
        """The smallest batch that should complete the slowest prompt, going by the last ones."""
        rate = (accepted.count.min() + 1) / (first + 1)
        needed = min(self.num_draws / rate, self.max_proposals) - first
        allowed = [size for size in BATCH_SIZES if size * len(accepted.count) <= MAX_ROWS]
        return next((size for size in allowed if size >= needed), [BATCH_SIZES[0], *allowed][-1])

    def _draws(self, target: Target, accepted: _Accepted, log_bound: float) -> Draws:
        samples, count, num_proposals = accepted.samples, accepted.count, accepted.num_proposals
        filled = np.arange(self.num_draws) < count[:, None]
        complete = count == self.num_draws
        with np.errstate(divide="ignore", invalid="ignore"):
            haldane = (count - 1) / (num_proposals - 1)
            log_z = log_bound + np.log(np.where(complete, haldane, count / num_proposals))
            log_share = np.log(accepted.num_ended / num_proposals)
        return Draws(
            tokens=jnp.asarray(samples.tokens),
            lengths=jnp.asarray(samples.lengths),
            log_weights=jnp.where(filled, 0.0, -jnp.inf),
            log_prior=jnp.asarray(samples.log_prior),
            log_evidence=jnp.asarray(samples.log_evidence),
            log_z=None if self.num_draws == 1 else jnp.asarray(log_z, jnp.float32),
            status=np.where(complete, Status.OK, Status.EXHAUSTED),
            claim=self.claim,
            prompts=target.prompts.prompts,
            decode=target.prior.decode,
            log_ended=log_ended(target, lambda: jnp.asarray(log_share, jnp.float32)),
            info={"num_proposals": num_proposals, "acceptance": count / num_proposals},
        )


class _Accepted:
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

    @property
    def wanted(self) -> Bool[np.ndarray, " P"]:
        return self.count < self.samples.lengths.shape[1]

    def add(
        self,
        samples: Samples,
        valid: Bool[np.ndarray, "P B"],
        accept: Bool[np.ndarray, "P B"],
    ) -> None:
        """Keep what is accepted until a prompt has enough; later proposals do not count."""
        num_draws = self.samples.lengths.shape[1]
        slot = self.count[:, None] + np.cumsum(valid & accept, axis=1) - (valid & accept)
        proposed = valid & (slot < num_draws)
        kept = proposed & accept
        at = np.nonzero(kept)
        for field in dataclasses.fields(Samples):
            getattr(self.samples, field.name)[at[0], slot[at]] = getattr(samples, field.name)[at]
        self.count += kept.sum(1)
        self.num_proposals += proposed.sum(1)
        self.num_ended += (proposed & ~np.isneginf(samples.log_prior)).sum(1)


@jax.jit
def _log_uniform(keys: Key, num_tokens: int | Array) -> Float[Array, "P B"]:
    """log U(0, 1) for the acceptance of every sample, from its key past what its tokens use."""

    def one(key: Key) -> Array:
        # A float32 uniform is a multiple of 2^-23, too coarse where acceptance is rare: a second
        # one refines it.
        coarse, fine = jax.random.uniform(jax.random.fold_in(key, num_tokens), (2,), jnp.float32)
        return jnp.log(coarse + fine * 2.0**-23)

    return jax.vmap(jax.vmap(one))(keys)


def _require_bound(log_evidence: Float[np.ndarray, " R"], log_bound: float) -> None:
    largest = float(log_evidence.max(initial=-np.inf))
    rounding = 1e-6 * max(1.0, abs(log_bound))
    if largest > log_bound + rounding:
        raise SamplerError(
            f"A log-potential of {largest:.6g} nats exceeds the bound {log_bound:.6g} by "
            f"{largest - log_bound:.3g}.",
            cause="log_bound, or the bounds that the evidence declares, are too small; draws "
            "accepted under them are not draws of p*.",
            remedy=f"pass log_bound={math.ceil(largest)} or more.",
        )
