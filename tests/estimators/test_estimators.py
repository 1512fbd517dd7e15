"""The estimators' table, and what each member does by itself; exactness is in tests/program."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest

import bayesft as bft
from bayesft.base import (
    Claim,
    Estimator,
    MultiPathEstimator,
    PathwiseEstimator,
    ScoreEstimator,
)
from bayesft.errors import EstimatorError
from bayesft.estimators import ESTIMATORS

MEMBERS = [
    bft.estimators.enumerate(),
    bft.estimators.leave_one_out(num_samples=4),
    bft.estimators.reparameterize(),
    bft.estimators.score_function(baseline=0.5),
]


def test_every_member_of_the_table_is_tested():
    assert {type(member) for member in MEMBERS} == set(ESTIMATORS)


@pytest.mark.parametrize("estimator", MEMBERS, ids=lambda e: type(e).__name__)
def test_members_state_a_claim_and_are_static(estimator):
    assert isinstance(estimator, Estimator)
    assert isinstance(estimator, PathwiseEstimator | ScoreEstimator | MultiPathEstimator)
    assert isinstance(estimator.claim, Claim)
    assert estimator.claim.kind in ("exact", "unbiased")
    assert jax.jit(lambda e: e.num_samples, static_argnums=0)(estimator) == estimator.num_samples
    assert estimator.num_samples >= 1


def test_leave_one_out_excludes_the_own_lane():
    credited = jnp.array([1.0, 2.0, 6.0])
    stored = bft.estimators.leave_one_out(num_samples=3).prepare(credited)
    assert jnp.allclose(stored, jnp.array([4.0, 3.5, 1.5]))


def test_enumerate_refuses_what_it_cannot_list():
    enumerate_ = bft.estimators.enumerate()
    for distribution in (dist.Normal(0.0, 1.0), dist.Bernoulli(probs=jnp.array([0.2, 0.3]))):
        with pytest.raises(EstimatorError, match="'b'"):
            enumerate_.expand("b", distribution, jax.random.key(0))


def test_a_users_own_estimator_fits_in_a_few_lines():
    """A score estimator whose baseline is half of the other lanes' mean."""

    class Half(ScoreEstimator):
        claim = Claim("unbiased")
        num_samples = 4

        def prepare(self, credited):
            return 0.5 * (credited.sum(0, keepdims=True) - credited) / 3

    @bft.expectation
    def program(p):
        return 5.0 + bft.draw("b", dist.Bernoulli(probs=p), Half())

    keys = jax.random.split(jax.random.key(0), 10_000)
    _, gradient = jax.jit(jax.vmap(lambda k: program.value_and_grad(k, 0.3)))(keys)
    bft.testing.assert_unbiased(gradient, 1.0)
