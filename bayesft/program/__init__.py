"""Programs: Python functions that make random choices, and what can be done with them.

Contract. `draw` makes a named choice, `cost` adds to the program's cost where it stands, `plate`
and `scan` loop and `cond` branches with choices inside, `log_mean_exp` is a bound of several
samples, and particles grow by `Steps`. `expectation` estimates E[cost] and its gradient, `record`
and `replay_value_and_grad` split that into a forward pass (with evidence in Python called once for
all lanes) and any number of differentiable ones, `model` is the distribution over a program's
choices. A distribution that makes choices itself is a `SubProgram`: drawn or scored, its choices
become those of the caller, under a prefix.

Laws, tested in tests/program against enumeration:
 - estimate and value_and_grad are unbiased under every estimator whose claim is exact or unbiased,
   plain, in plates, scans and conds, and nested;
 - replaying a fresh recording gives the gradient of the program on the recorded choices, for any
   micro-batch size; a replay at other parameters is corrected by importance weights;
 - choices, costs and evidence inside raw JAX control flow are refused, and so are duplicate names,
   and comparing or rounding a reparameterised value where its gradient would be wrong;
 - jit, vmap and grad around a whole call change nothing.
"""

from bayesft.program.cond import cond
from bayesft.program.control import plate, scan
from bayesft.program.effects import cost, draw, estimate_log_prob
from bayesft.program.expectation import Expectation, expectation
from bayesft.program.log_mean_exp import log_mean_exp
from bayesft.program.model import Model, ModelDistribution, model
from bayesft.program.particles import Steps
from bayesft.program.record import Recording, record, replay_value_and_grad
from bayesft.program.subprogram import StochasticDensity, SubProgram

__all__ = [
    "Expectation",
    "Model",
    "ModelDistribution",
    "Recording",
    "Steps",
    "StochasticDensity",
    "SubProgram",
    "cond",
    "cost",
    "draw",
    "estimate_log_prob",
    "expectation",
    "log_mean_exp",
    "model",
    "plate",
    "record",
    "replay_value_and_grad",
    "scan",
]
