"""Best-of-n: of n samples of the prior, the one with the largest evidence."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np

from bayesft.base import Claim, Key, Sampler
from bayesft.draws import Draws, Status
from bayesft.samplers.ended import estimate_log_ended, log_ended
from bayesft.samplers.plain import MAX_ROWS, Samples, propose
from bayesft.samplers.validation import require_count
from bayesft.target import Target


def best_of_n(n: int, num_draws: int) -> BestOfN:
    """Draws of the best-of-n law, which is not p*: its draws are equally weighted, log_z is None.

    p(y | x) = π0(y | x)·(F(φ)ⁿ − F(φ−)ⁿ) / P(φ(Y, x) = φ), φ = φ(y, x), where F is the CDF of
    φ(Y, x) under the prior and F(φ−) its limit from below. Ties are won by the sample drawn first.
    KL(p ‖ π0) ≤ log n − (n − 1)/n (Beirami et al. 2024). Where even the best of n has density 0
    under the target, the draw has log-weight -inf.
    """
    return BestOfN(require_count("n", n), require_count("num_draws", num_draws))


@dataclasses.dataclass(frozen=True)
class BestOfN(Sampler):
    """See `best_of_n`."""

    n: int
    num_draws: int

    @property
    def claim(self) -> Claim:
        return Claim("another law", f"the best of {self.n} samples of the prior by evidence")

    def run(self, target: Target, key: Key) -> Draws:
        best = self._best(target, key)
        weighted = ~np.isneginf(best.log_evidence)
        return Draws(
            tokens=jnp.asarray(best.tokens),
            lengths=jnp.asarray(best.lengths),
            log_weights=jnp.where(weighted, 0.0, -jnp.inf),
            log_prior=jnp.asarray(best.log_prior),
            log_evidence=jnp.asarray(best.log_evidence),
            log_z=None,
            status=np.where(weighted.any(-1), Status.OK, Status.ALL_DEAD),
            claim=self.claim,
            prompts=target.prompts.prompts,
            decode=target.prior.decode,
            log_ended=log_ended(
                target, lambda: estimate_log_ended(target, key, self.n * self.num_draws)
            ),
        )

    def _best(self, target: Target, key: Key) -> Samples:
        """The best sample of every draw, in batches of one shape that may overshoot."""
        per_batch = max(1, MAX_ROWS // (len(target.prompts) * self.n))
        per_batch = min(per_batch, self.num_draws)
        batches = []
        for first in range(0, self.num_draws, per_batch):
            samples = propose(target, key, first * self.n, per_batch * self.n)
            groups = samples.log_evidence.reshape(-1, per_batch, self.n)
            index = groups.argmax(-1) + self.n * np.arange(per_batch)
            batches.append(samples.take(index))
        return Samples.join(batches, self.num_draws)
