"""Objectives: which expectation is optimised, as programs for one sample.

Contract. An objective is a function `(guide, target, x) -> cost`: it makes choices with `bft.draw`
and returns one number, whose expectation is minimised. `guide(x)` is a normalised distribution over
completions, `target.log_density(y, x)` the unnormalised target. An objective that needs draws of
the target first has `observe(target, guide, key) -> xs`. A user's own objective looks the same.

Laws, tested in tests/objectives on every member of `OBJECTIVES`: the value agrees with enumeration,
the gradient too under every estimator that applies, and the minimiser is the enumerated posterior
where theory says so.
"""

from bayesft.objectives.forward_kl import ForwardKL, forward_kl
from bayesft.objectives.mle import mle
from bayesft.objectives.reverse_kl import reverse_kl

OBJECTIVES = (forward_kl, mle, reverse_kl)

__all__ = ["OBJECTIVES", "ForwardKL", "forward_kl", "mle", "reverse_kl"]
