"""Estimators: how a random choice is differentiated.

Contract. An estimator states a `claim` (exact, unbiased, or biased and by what) and derives from
one of three kinds in `bayesft.base`: `PathwiseEstimator` (differentiates the value),
`ScoreEstimator` (differentiates the log-prob, weighted by credited cost less a baseline; a
`StatefulEstimator` learns that from earlier steps, and may add a control variate), or
`MultiPathEstimator` (replays the rest of the program for several values). `num_samples` replicates
the whole program into lanes. Estimators are hashable: they are static under jit.

Laws: every member of `ESTIMATORS` states its claim and is static (tests/estimators); its gradient
agrees with enumeration or quadrature under the claim (a biased one: with the bias it states), for
every distribution it takes, in plates, scans and conds, and a planted bug makes that test fail
(tests/estimators/test_table.py, tests/program).
"""

from bayesft.estimators.detached import Detached, detached
from bayesft.estimators.doubly_reparameterize import (
    DoublyReparameterize,
    doubly_reparameterize,
)
from bayesft.estimators.enumerate import Enumerate, enumerate
from bayesft.estimators.gumbel_straight_through import (
    GumbelStraightThrough,
    gumbel_straight_through,
)
from bayesft.estimators.importance import Importance, importance
from bayesft.estimators.learned_baseline import LearnedBaseline, learned_baseline
from bayesft.estimators.leave_one_out import LeaveOneOut, leave_one_out
from bayesft.estimators.measure_valued import MeasureValued, measure_valued
from bayesft.estimators.moving_average import MovingAverage, moving_average
from bayesft.estimators.rebar import Rebar, rebar
from bayesft.estimators.relax import Relax, relax
from bayesft.estimators.reparameterize import Reparameterize, reparameterize
from bayesft.estimators.score_function import ScoreFunction, score_function
from bayesft.estimators.trained_rebar import TrainedRebar, trained_rebar
from bayesft.estimators.vimco import Vimco, vimco

ESTIMATORS = (
    Detached,
    DoublyReparameterize,
    Enumerate,
    GumbelStraightThrough,
    Importance,
    LearnedBaseline,
    LeaveOneOut,
    MeasureValued,
    MovingAverage,
    Rebar,
    Relax,
    Reparameterize,
    ScoreFunction,
    TrainedRebar,
    Vimco,
)

__all__ = [
    "ESTIMATORS",
    "detached",
    "doubly_reparameterize",
    "enumerate",
    "gumbel_straight_through",
    "importance",
    "learned_baseline",
    "leave_one_out",
    "measure_valued",
    "moving_average",
    "rebar",
    "relax",
    "reparameterize",
    "score_function",
    "trained_rebar",
    "vimco",
]
