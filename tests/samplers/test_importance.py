"""Importance sampling: proper weights from the prior and from a guide."""

import jax
import numpy as np
import pytest
from samplers.claims import FAMILY, assert_proper_weights
from samplers.language import (
    HAS_AB,
    IN_PYTHON,
    LANGUAGE,
    LOG_ENDED,
    TOKEN_BY_TOKEN,
    guide,
    replicated,
)

from bayesft._sample import sample
from bayesft.errors import SamplerError
from bayesft.priors import markov, trainable
from bayesft.priors.sequence import bind
from bayesft.samplers import ended, importance
from bayesft.target import Target
from bayesft.testing import assert_unbiased

RUNS = 4000


def test_from_the_prior():
    assert_proper_weights(replicated(TOKEN_BY_TOKEN, RUNS), importance(16))


def test_weights_from_the_prior_are_the_evidence_exactly():
    draws = sample(replicated(TOKEN_BY_TOKEN, RUNS), importance(16), jax.random.key(0))
    assert (draws.log_weights == draws.log_evidence).all()


@pytest.mark.parametrize(("evidence", "eos"), [(HAS_AB, "condition"), (IN_PYTHON, "force")])
def test_from_a_guide(evidence, eos):
    assert_proper_weights(replicated(evidence, RUNS, eos), importance(16, guide()))


def test_a_bound_guide_proposes_as_the_guide_does():
    target, proposal = replicated(IN_PYTHON, RUNS, "force"), guide()
    one = sample(target, importance(16, proposal), jax.random.key(0))
    other = sample(target, importance(16, bind(proposal, target.horizon)), jax.random.key(0))
    assert (one.tokens == other.tokens).all()
    assert (one.log_weights == other.log_weights).all()


def test_a_copy_of_the_prior_proposes_with_weights_of_evidence_alone():
    target = replicated(IN_PYTHON, RUNS, "force")
    draws = sample(target, importance(16, trainable(LANGUAGE)), jax.random.key(0))
    np.testing.assert_allclose(draws.log_weights, draws.log_evidence, atol=1e-6)


def test_probability_of_ending_is_the_share_of_draws_where_the_prior_is_not_listed(monkeypatch):
    target = replicated(None, RUNS, "condition")
    draws = sample(target, importance(16), jax.random.key(1))
    np.testing.assert_allclose(draws.log_ended, LOG_ENDED, atol=1e-5)
    monkeypatch.setattr(ended, "MAX_OUTCOMES", 0)
    draws = sample(target, importance(16), jax.random.key(1))
    estimates = np.exp(np.asarray(draws.log_ended))
    assert_unbiased(estimates, np.exp(LOG_ENDED), resolution=0.03, family=FAMILY)
    np.testing.assert_allclose(draws.log_z, draws.log_ended, atol=1e-5)


@pytest.mark.parametrize(
    ("proposal", "message"),
    [
        (markov(np.zeros(4), np.zeros((4, 4)), eos=2), "V, EOS"),
        (markov(np.zeros(3), np.zeros((3, 3)), eos=1), "V, EOS"),
        (bind(guide(), Target(LANGUAGE, max_new_tokens=3).horizon), "bound to"),
    ],
)
def test_a_proposal_that_does_not_fit_is_refused(proposal, message):
    with pytest.raises(SamplerError, match=message):
        sample(replicated(None, 1), importance(2, proposal), jax.random.key(0))


def test_settings_are_checked_when_the_sampler_is_made():
    for count in (0, -1, 2.5, True, "8"):
        with pytest.raises(SamplerError, match="num_particles"):
            importance(count)
    with pytest.raises(SamplerError, match="cannot propose"):
        importance(8, lambda x: x)
