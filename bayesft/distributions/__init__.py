"""Stochastic densities: distributions that can be drawn, and whose density is only estimated.

Contract. A member is a `StochasticDensity` (in `bayesft.program`): two programs, `propose`, which
draws a value with its log-prob, and `assess`, which scores one that is given. `bft.draw(name, d,
with_log_prob=True)` and `bft.estimate_log_prob(name, d, value)` run them as parts of the caller's
program, so that every choice inside keeps its score term. There is no `log_prob`: scoring what was
drawn as if it had been given turns an upper bound into a lower one without a word.

Laws, tested in tests/distributions against enumeration, on every member of `DISTRIBUTIONS`:
 - drawn: E[1/exp(log_prob) | y] = 1/q(y), so reverse KL with it is an upper bound of reverse KL;
 - given: E[exp(estimate)] = q(y), so a log-likelihood with it is a lower bound;
 - gradients of programs with either are those of the bound, and one inside another keeps the laws;
 - a dropped score term, and a fresh auxiliary in the place of the one drawn, make the tests fail.

`Steps` say how the paths of `smc` grow; `bft.objectives.sequence_steps` makes those of a guide of
sequences and a target.
"""

from bayesft.distributions.hierarchical import HierarchicalGuide, hierarchical_guide
from bayesft.distributions.marginal import Marginal, marginal
from bayesft.distributions.normalize import Normalized, normalize
from bayesft.distributions.smc import SMC, smc
from bayesft.program import Steps

DISTRIBUTIONS = (marginal, normalize, smc)

__all__ = [
    "DISTRIBUTIONS",
    "SMC",
    "HierarchicalGuide",
    "Marginal",
    "Normalized",
    "Steps",
    "hierarchical_guide",
    "marginal",
    "normalize",
    "smc",
]
