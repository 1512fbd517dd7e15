"""Objectives: which expectation is optimised, as programs for one sample.

Contract. An objective is a function `(guide, target, x) -> cost`: it makes choices with `bft.draw`
and returns one number, whose expectation is minimised. `guide(x)` is a normalised distribution over
completions, `target.log_density(y, x)` the unnormalised target; both may be of any kind, numpyro's
distributions among them. An objective of K samples draws them in a `bft.plate` and returns its cost
outside, so that each draw is credited with all of it. One whose gradient is not that of its value
draws with `draw_detached`, states the gradient, and asks for no estimator. An objective that needs
draws of the target first has `observe(target, guide, key) -> xs`. Objectives with settings are
frozen dataclasses: equal settings do not trace again. A user's own objective looks the same.

Laws, tested in tests/objectives on every member of `OBJECTIVES`: the value agrees with enumeration,
the gradient too under every estimator that applies, the minimiser is the enumerated posterior
where theory says so, and a planted bug makes the test fail. docs/objectives.md compares them.
"""

from bayesft.objectives import generators
from bayesft.objectives.chi_upper_bound import ChiUpperBound, chi_upper_bound
from bayesft.objectives.f_divergence import FDivergence, f_divergence
from bayesft.objectives.forward_kl import ForwardKL, forward_kl
from bayesft.objectives.hierarchical import DIWHVI, IWHVI, diwhvi, hierarchical, iwhvi
from bayesft.objectives.iwae import IWAE, iwae
from bayesft.objectives.log_variance import LogVariance, log_variance
from bayesft.objectives.log_z import GuideWithLogZ, with_log_z
from bayesft.objectives.mle import mle
from bayesft.objectives.renyi import Renyi, renyi
from bayesft.objectives.reverse_kl import reverse_kl
from bayesft.objectives.reweighted_wake_sleep import ReweightedWakeSleep, reweighted_wake_sleep
from bayesft.objectives.sequence_steps import sequence_steps
from bayesft.objectives.trajectory_balance import trajectory_balance
from bayesft.objectives.variational_smc import VariationalSMC, variational_smc
from bayesft.objectives.wake_sleep import wake_sleep
from bayesft.objectives.weights import draw_detached

OBJECTIVES = (
    chi_upper_bound,
    diwhvi,
    f_divergence,
    forward_kl,
    hierarchical,
    iwae,
    iwhvi,
    log_variance,
    mle,
    renyi,
    reverse_kl,
    reweighted_wake_sleep,
    trajectory_balance,
    variational_smc,
    wake_sleep,
)

__all__ = [
    "DIWHVI",
    "IWAE",
    "IWHVI",
    "OBJECTIVES",
    "ChiUpperBound",
    "FDivergence",
    "ForwardKL",
    "GuideWithLogZ",
    "LogVariance",
    "Renyi",
    "ReweightedWakeSleep",
    "VariationalSMC",
    "chi_upper_bound",
    "diwhvi",
    "draw_detached",
    "f_divergence",
    "forward_kl",
    "generators",
    "hierarchical",
    "iwae",
    "iwhvi",
    "log_variance",
    "mle",
    "renyi",
    "reverse_kl",
    "reweighted_wake_sleep",
    "sequence_steps",
    "trajectory_balance",
    "variational_smc",
    "wake_sleep",
    "with_log_z",
]
