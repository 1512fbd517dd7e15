"""Statistical rejection sampling as RSO uses it: the bound is the best of the candidates."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from bayesft.base import Claim, Key, Sampler
from bayesft.draws import Draws, Status
from bayesft.errors import SamplerError
from bayesft.samplers.accepting import log_uniform
from bayesft.samplers.ended import estimate_log_ended, log_ended
from bayesft.samplers.plain import MAX_ROWS, Samples, propose, sample_keys
from bayesft.samplers.validation import require_count
from bayesft.target import Target


def statistical_rejection(num_candidates: int, num_draws: int) -> StatisticalRejection:
    """`num_draws` of `num_candidates` prior samples, without replacement, by rejection in sweeps.

    A sweep takes φ_max, the largest φ among the candidates that remain, goes through them in the
    order in which they were drawn, and moves each to the draws with probability φ(y, x)/φ_max, in
    nats exp((r − r_max)/β) for a reward. Sweeps repeat, each with its own maximum, until there are
    `num_draws`.

    The law is not p*. It tends to it as `num_candidates` grows and `num_draws` stays, where Z is
    finite: then all draws come from the first sweep, whose maximum is a bound for all but the
    rarest sequences. Where all candidates are taken it is the prior. Draws of a prompt depend on
    one another; the later sweeps lean further towards the prior. log_z is None.

    Draws are equally weighted, in the order in which they were accepted. A prompt with fewer
    possible candidates than `num_draws` is EXHAUSTED: its empty slots have log-weight -inf and
    length 0. `info` has `num_sweeps` [P]. The paper's program merges equal candidates; here they
    remain two, as draws of the prior are.

    Raises SamplerError where `num_draws` exceeds `num_candidates`.

    Liu, Zhao, Joshi, Khalman, Saleh, Liu and Liu 2024, "Statistical rejection sampling improves
    preference optimization", ICLR, algorithm 1.
    """
    num_candidates = require_count("num_candidates", num_candidates)
    num_draws = require_count("num_draws", num_draws)
    if num_draws > num_candidates:
        raise SamplerError(
            f"{num_draws} draws cannot be taken from {num_candidates} candidates.",
            cause="the arguments are swapped, or too few candidates; none is taken twice.",
            remedy="use several times as many candidates as draws: the more, the closer to p*.",
        )
    return StatisticalRejection(num_candidates, num_draws)


@dataclasses.dataclass(frozen=True)
class StatisticalRejection(Sampler):
    """See `statistical_rejection`."""

    num_candidates: int
    num_draws: int

    @property
    def claim(self) -> Claim:
        return Claim(
            "another law",
            f"{self.num_draws} of {self.num_candidates} prior samples, accepted in sweeps with the "
            "largest potential left for a bound",
        )

    def run(self, target: Target, key: Key) -> Draws:
        candidates = self._candidates(target, key)
        order, filled, num_sweeps = self._accept(target, key, candidates.log_evidence)
        samples = candidates.take(order)
        empty = target.prior.eos[0]
        return Draws(
            tokens=jnp.asarray(np.where(filled[..., None], samples.tokens, empty)),
            lengths=jnp.asarray(np.where(filled, samples.lengths, 0)),
            log_weights=jnp.where(filled, 0.0, -jnp.inf),
            log_prior=jnp.asarray(np.where(filled, samples.log_prior, -np.inf)),
            log_evidence=jnp.asarray(np.where(filled, samples.log_evidence, -np.inf)),
            log_z=None,
            status=np.where(filled.all(1), Status.OK, Status.EXHAUSTED),
            claim=self.claim,
            prompts=target.prompts.prompts,
            decode=target.prior.decode,
            log_ended=log_ended(
                target, lambda: estimate_log_ended(target, key, self.num_candidates)
            ),
            info={"num_sweeps": num_sweeps},
        )

    def _candidates(self, target: Target, key: Key) -> Samples:
        size = min(self.num_candidates, max(1, MAX_ROWS // len(target.prompts)))
        firsts = range(0, self.num_candidates, size)
        batches = [propose(target, key, first, size) for first in firsts]
        return Samples.join(batches, self.num_candidates)

    def _accept(
        self, target: Target, key: Key, log_evidence: Float[np.ndarray, "P C"]
    ) -> tuple[Int[np.ndarray, "P N"], Bool[np.ndarray, "P N"], Int[np.ndarray, " P"]]:
        """Which candidates are accepted, in order, which slots are filled, and after how many
        sweeps."""
        keys = sample_keys(target.xs.id, key, 0, self.num_candidates)
        left = ~np.isneginf(log_evidence)
        order = np.zeros((len(left), self.num_draws), np.int64)
        count, num_sweeps = np.zeros((2, len(left)), np.int64)
        while (going := left.any(1) & (count < self.num_draws)).any():
            # Every sweep accepts at least the best that remains.
            peak = np.where(left, log_evidence, -np.inf).max(1, keepdims=True)
            log_ratio = np.where(left, log_evidence - np.where(going[:, None], peak, 0), -np.inf)
            number = target.horizon.max_new_tokens + int(num_sweeps.max())
            log_uniforms = np.asarray(log_uniform(keys, number))
            accept = going[:, None] & left & ((log_uniforms < log_ratio) | (log_ratio == 0))
            slot = count[:, None] + np.cumsum(accept, axis=1) - accept
            kept = accept & (slot < self.num_draws)
            prompt, candidate = np.nonzero(kept)
            order[prompt, slot[kept]] = candidate
            left &= ~kept
            count += kept.sum(1)
            num_sweeps += going
        return order, np.arange(self.num_draws) < count[:, None], num_sweeps
