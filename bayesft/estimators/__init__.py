"""Estimators: how a random choice is differentiated.

Contract. An estimator states a `claim` (exact, unbiased, or biased and by what) and derives from
one of three kinds in `bayesft.base`: `PathwiseEstimator` (differentiates the value),
`ScoreEstimator` (differentiates the log-prob, weighted by credited cost less a baseline), or
`MultiPathEstimator` (replays the rest of the program for several values). `num_samples` replicates
the whole program into lanes. Estimators are hashable: they are static under jit.

Laws: every member of `ESTIMATORS` states its claim and is static (tests/estimators); its gradient
agrees with exact enumeration under the claim, plain, in plates and in scans, and a planted bug
makes that test fail (tests/program).
"""

from bayesft.estimators.enumerate import Enumerate, enumerate
from bayesft.estimators.leave_one_out import LeaveOneOut, leave_one_out
from bayesft.estimators.reparameterize import Reparameterize, reparameterize
from bayesft.estimators.score_function import ScoreFunction, score_function

ESTIMATORS = (Enumerate, LeaveOneOut, Reparameterize, ScoreFunction)

__all__ = ["ESTIMATORS", "enumerate", "leave_one_out", "reparameterize", "score_function"]
