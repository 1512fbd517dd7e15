"""Best-of-n: of n samples of the prior, the one with the largest evidence."""

from __future__ import annotations

import dataclasses

from bayesft.base import Claim, Key, Sampler
from bayesft.draws import Draws
from bayesft.samplers.selection import select, selected_draws
from bayesft.samplers.selection_distance import best_distance
from bayesft.samplers.validation import require_count
from bayesft.target import Target


def best_of_n(n: int, num_draws: int) -> BestOfN:
    """Draws of the best-of-n law, which is not p*: its draws are equally weighted, log_z is None.

    p(y | x) = π0(y | x)·(F(φ)ⁿ − F(φ−)ⁿ) / P(φ(Y, x) = φ), φ = φ(y, x), where F is the CDF of
    φ(Y, x) under the prior and F(φ−) its limit from below. Ties are won by the sample drawn first.
    Where even the best of n has density 0 under the target, the draw has log-weight -inf.

    `info` has, all of the law with those draws of density 0:

    - `kl` [P]: KL(p ‖ π0) = Σ_v (F(v)ⁿ − F(v−)ⁿ)·log((F(v)ⁿ − F(v−)ⁿ)/P(φ = v)) over the values v
      of φ, in nats; `kl_bound` = log n − (n − 1)/n is what it does not exceed, and has where there
      are no ties (Beirami et al. 2024);
    - `win_rate` [P]: P(φ(Y) > φ(Y′)) + ½·P(φ(Y) = φ(Y′)), Y ~ p against Y′ ~ π0; `win_rate_bound`
      = n/(n + 1) likewise.

    Both are estimated from the values of all n·num_draws samples, corrected by the jackknife (which
    may put them above the bound by their error), with standard errors `kl_error` and
    `win_rate_error`. With one draw there is no correction, and the error is NaN.
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
        best, values = select(
            target, key, self.n, self.num_draws, lambda values, first: values.argmax(-1)
        )
        return selected_draws(target, key, self.n, best, self.claim, best_distance(values))
